//! Bars, as SVG.

use std::fmt::Write as _;

use crate::way::Way;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 60.0;
const BAR: f64 = 15.0;
const GAP: f64 = 3.0;
const HEAD: f64 = 52.0;
const GROUP_HEAD: f64 = 26.0;

/// Bars under one heading.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<(Way, f64)>,
}

/// A picture of these groups; `axis` says what the bars' length means, and all have the same scale.
pub(crate) fn bars(title: &str, axis: &str, decimals: usize, groups: &[Group]) -> String {
    let longest = groups
        .iter()
        .flat_map(|group| &group.bars)
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = HEAD;
    for group in groups {
        let _ = writeln!(
            body,
            "<text x=\"12\" y=\"{:.0}\" class=\"group\">{}</text>",
            y + 14.0,
            escaped(&group.name)
        );
        y += GROUP_HEAD;
        for &(way, value) in &group.bars {
            let length = (value / longest * (WIDTH - LABELS - VALUES)).max(1.0);
            let baseline = y + BAR - 3.5;
            let _ = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{baseline:.1}\" class=\"way\">{}</text>\
                 <rect x=\"{LABELS:.0}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR:.0}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{baseline:.1}\">{value:.decimals$}</text>",
                LABELS - 8.0,
                escaped(way.name()),
                colour(way),
                LABELS + length + 6.0,
            );
            y += BAR + GAP;
        }
        y += 8.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {y:.0}\" width=\"{WIDTH:.0}\" height=\"{y:.0}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <style>text {{ font: 12px sans-serif; fill: #222; }} .title {{ font: bold 15px sans-serif; }} \
         .group {{ font-weight: bold; }} .way {{ text-anchor: end; }} .axis {{ fill: #666; }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" class=\"title\">{title}</text><text x=\"12\" y=\"40\" class=\"axis\">{axis}</text>\n\
         {body}</svg>\n",
        title = escaped(title),
        axis = escaped(axis),
    )
}

fn colour(way: Way) -> &'static str {
    match way {
        Way::None => "#9aa0a6",
        Way::SeventhL4 => "#8fc7a3",
        Way::SeventhHttp | Way::SeventhTls | Way::SeventhDns => "#1b7f4d",
        Way::SeventhAudit => "#57a773",
        Way::Envoy1 => "#e3a0c2",
        Way::Envoy2 => "#b5427e",
        Way::Haproxy => "#4a78b5",
        Way::Nginx => "#7fa6d6",
        Way::Dnsdist => "#d08a2c",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_the_others_are_in_proportion() {
        let group = Group {
            name: "a < b".to_owned(),
            bars: vec![(Way::None, 2.0), (Way::Envoy2, 0.5)],
        };
        let svg = bars("speed", "times", 2, &[group]);
        assert!(
            svg.contains("a &lt; b") && svg.contains(">2.00<") && svg.contains(">0.50<"),
            "{svg}"
        );
        let full = WIDTH - LABELS - VALUES;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")) && svg.contains(&format!("width=\"{:.1}\"", full / 4.0)));
    }
}
