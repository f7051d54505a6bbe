//! What a replay has come to, as one page for a browser: tables, a timeline, nothing from elsewhere and no script.

use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use prost_types::Timestamp;
use seventh_policy::RuleOrigin;

use super::tally::{Outcome, Tally};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2430}\
    h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
    th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde3ea;vertical-align:top;overflow-wrap:anywhere;\
    min-width:9.5rem}\
    th{background:#f3f5f8}td.n,th.n{text-align:right;white-space:nowrap;min-width:0}.no{color:#b3261e}.yes{color:#1b6e3c}\
    .never{background:#fff6e0}svg{width:100%;height:9rem;background:#f8f9fb}p.none{color:#5a6675}";
/// Units of the timeline's drawing.
const HEIGHT: u64 = 100;
const WIDTH: usize = 1200;

/// Characters that turn the direction of writing, and with it what a line seems to say.
const TURNS: [char; 9] = [
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// Text of strangers: what a browser would take for markup is written out.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                control if control.is_control() || TURNS.contains(&control) => {
                    write!(f, "{}", control.escape_default())?;
                }
                plain => f.write_char(plain)?,
            }
        }
        Ok(())
    }
}

/// The page. `captures` are their names.
pub(crate) fn page(tally: &Tally, rules: &[Arc<RuleOrigin>], captures: &[String]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, tally, rules, captures);
    out
}

fn write_page(out: &mut String, tally: &Tally, rules: &[Arc<RuleOrigin>], captures: &[String]) -> fmt::Result {
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>Seventh: replay</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>Replay \
         of {}</h1>",
        Escaped(&captures.join(", "))
    )?;
    summary(out, tally)?;
    timeline(out, tally)?;
    denials(out, tally)?;
    pairs(out, tally)?;
    if !rules.is_empty() {
        rule_hits(out, tally, rules)?;
    }
    writeln!(out, "</body></html>")
}

fn summary(out: &mut String, tally: &Tally) -> fmt::Result {
    writeln!(
        out,
        "<p>{} packets, {} bytes, {} conversations. {} packets are not IP, {} neither TCP nor UDP.</p>",
        tally.packets, tally.bytes, tally.conversations, tally.not_ip, tally.other_protocols
    )?;
    if tally.records_lost > 0 {
        writeln!(
            out,
            "<p class=\"no\">{} requests are not told: too many at once.</p>",
            tally.records_lost
        )?;
    }
    writeln!(
        out,
        "<table id=\"requests\"><tr><th>protocol</th><th>verdict</th><th class=\"n\">requests and answers</th></tr>"
    )?;
    for ((protocol, verdict), count) in &tally.requests {
        let class = if *verdict == "forwarded" { "yes" } else { "no" };
        writeln!(
            out,
            "<tr><td>{protocol}</td><td class=\"{class}\">{verdict}</td><td class=\"n\">{count}</td></tr>"
        )?;
    }
    writeln!(out, "</table>")
}

fn timeline(out: &mut String, tally: &Tally) -> fmt::Result {
    let timeline = &tally.timeline;
    let highest = timeline.spans.iter().map(|span| span.sum()).max().unwrap_or(0);
    writeln!(out, "<h2>When</h2>")?;
    if highest == 0 {
        return writeln!(out, "<p class=\"none\">Nothing was asked for.</p>");
    }
    let wide = WIDTH / timeline.spans.len().max(1);
    writeln!(
        out,
        "<svg id=\"timeline\" viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\">",
        wide * timeline.spans.len()
    )?;
    for (at, span) in timeline.spans.iter().enumerate() {
        let part = |count: u64| (count * HEIGHT).div_ceil(highest).min(HEIGHT);
        let (forwarded, denied) = (part(span.forwarded), part(span.denied));
        let x = at * wide;
        for (height, y, colour) in [
            (forwarded, HEIGHT - forwarded, "#58a578"),
            (denied, HEIGHT.saturating_sub(forwarded + denied), "#c9463d"),
        ] {
            if height > 0 {
                writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{height}\" fill=\"{colour}\"><title>{} on, {} \
                     denied</title></rect>",
                    span.forwarded, span.denied
                )?;
            }
        }
    }
    let begin = Timestamp {
        seconds: i64::try_from(timeline.begin_ns() / 1_000_000_000).unwrap_or(i64::MAX),
        nanos: 0,
    };
    writeln!(
        out,
        "</svg>\n<p>From {begin}; each bar is {} s; the highest is {highest} requests, answers and denials. Green went on, \
         red was denied.</p>",
        timeline.span_ns / 1_000_000_000
    )
}

fn denials(out: &mut String, tally: &Tally) -> fmt::Result {
    writeln!(out, "<h2>What was (or would be) denied</h2>")?;
    if tally.denials.is_empty() {
        return writeln!(out, "<p class=\"none\">Nothing.</p>");
    }
    let mut denials: Vec<_> = tally.denials.iter().collect();
    denials.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    writeln!(
        out,
        "<table id=\"denials\"><tr><th>from</th><th>to</th><th>what</th><th>why</th><th class=\"n\">times</th></tr>"
    )?;
    for (denial, count) in denials {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"no\">{}</td><td class=\"n\">{count}</td></tr>",
            Escaped(&denial.source),
            Escaped(&denial.destination),
            Escaped(&denial.what),
            Escaped(&denial.why)
        )?;
    }
    writeln!(out, "</table>")?;
    more(out, tally.denials_untold, "further denials")
}

fn pairs(out: &mut String, tally: &Tally) -> fmt::Result {
    writeln!(
        out,
        "<h2>Requests by endpoint</h2>\n<table id=\"endpoints\"><tr><th>from</th><th>to</th><th \
         class=\"n\">port</th><th>protocol</th><th class=\"n\">on</th><th class=\"n\">denied</th></tr>"
    )?;
    for (pair, Outcome { forwarded, denied }) in tally.pairs() {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{forwarded}</td><td class=\"n\">\
             {denied}</td></tr>",
            Escaped(&pair.source),
            Escaped(&pair.destination),
            pair.port,
            pair.protocol
        )?;
    }
    writeln!(out, "</table>")?;
    more(out, tally.pairs_untold.sum(), "requests of further pairs")
}

fn rule_hits(out: &mut String, tally: &Tally, rules: &[Arc<RuleOrigin>]) -> fmt::Result {
    writeln!(
        out,
        "<h2>Rules</h2>\n<table id=\"rules\"><tr><th>file</th><th class=\"n\">line</th><th>rule</th><th \
         class=\"n\">allowed</th></tr>"
    )?;
    for (rule, hits) in tally.hits(rules) {
        let (class, hits) = if hits == 0 {
            (" class=\"never\"", "never".to_owned())
        } else {
            ("", hits.to_string())
        };
        writeln!(
            out,
            "<tr{class}><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{hits}</td></tr>",
            Escaped(&rule.file),
            rule.line,
            Escaped(&rule.path)
        )?;
    }
    writeln!(out, "</table>")
}

fn more(out: &mut String, count: u64, of_what: &str) -> fmt::Result {
    if count > 0 {
        writeln!(out, "<p>And {count} {of_what}.</p>")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Escaped, page};
    use crate::replay::tally::{Denial, Outcome, Pair, Tally};
    use std::{collections::HashSet, fs, process::Command};

    /// What was put into every place where strangers' words stand.
    const HOSTILE: &str = "</td><script src=//evil>'\"&\u{202e}\u{0}";

    fn hostile() -> Tally {
        let text = || HOSTILE.to_owned();
        let mut tally = Tally::default();
        let denial = Denial {
            source: text(),
            destination: text(),
            what: text(),
            why: text(),
        };
        tally.denials.insert(denial, 3);
        let pair = Pair {
            source: text(),
            destination: text(),
            port: 80,
            protocol: "HTTP/1",
        };
        let outcome = Outcome {
            forwarded: 1,
            denied: 3,
        };
        tally.insert(pair, outcome);
        tally.packet(60, 1_700_000_000_000_000_000);
        for denied in [false, true, true, true] {
            tally.timeline.count(1_700_000_007_000_000_000, denied);
        }
        tally
    }

    #[test]
    fn words_of_strangers_stay_words() {
        assert_eq!(
            Escaped(HOSTILE).to_string(),
            "&lt;/td&gt;&lt;script src=//evil&gt;&#39;&quot;&amp;\\u{202e}\\u{0}"
        );
        let page = page(&hostile(), &[], &[HOSTILE.to_owned()]);
        assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{0}'));
        assert_eq!(page.matches("&lt;script").count(), 7);
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_tells_everything() {
        let page = page(&hostile(), &[], &["a.pcap".to_owned()]);
        for elsewhere in ["http:", "https:", "src=\"", "href=", "@import", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(page.contains("<td class=\"n\">3</td></tr>"), "{page}");
        assert!(page.contains("From 2023-11-14T22:13:20Z"), "{page}");
        // One on, three denied, in the same bar.
        assert_eq!(page.matches("<rect ").count(), 2);
        assert!(page.contains("height=\"25\"") && page.contains("height=\"75\""));
    }

    /// What a browser made of the page: its document after everything has run that the page could have it run.
    fn in_browser(page: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("page.html");
        fs::write(&file, page).unwrap();
        let output = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ])
            .arg("--virtual-time-budget=1000")
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg("--dump-dom")
            .arg(format!("file://{}", file.display()))
            .output()
            .expect("chromium is there (./seventh-dev setup)");
        let dom = String::from_utf8(output.stdout).unwrap();
        assert!(dom.contains("</html>"), "{}", String::from_utf8_lossy(&output.stderr));
        dom
    }

    #[test]
    fn a_browser_shows_tables_and_timeline_and_runs_nothing_of_strangers() {
        let dom = in_browser(&page(&hostile(), &[], &[HOSTILE.to_owned()]));
        for table in ["denials", "endpoints"] {
            let rows = dom.split_once(&format!("id=\"{table}\"")).unwrap().1;
            let rows = rows.split_once("</table>").unwrap().0;
            assert_eq!(rows.matches("<tr>").count(), 2, "{table}: a head and a row: {rows}");
        }
        assert!(dom.matches("<rect").count() > 0, "{dom}");
        let elements: HashSet<&str> = dom
            .split('<')
            .filter_map(|piece| piece.split([' ', '>', '\n']).next())
            .filter(|name| !name.starts_with('/'))
            .collect();
        let foreign = ["script", "img", "iframe", "object", "link", "a"]
            .iter()
            .find(|name| elements.contains(**name));
        assert_eq!(foreign, None);
        assert!(
            dom.contains("&lt;script src=//evil&gt;"),
            "what strangers said is there to read"
        );
    }
}
