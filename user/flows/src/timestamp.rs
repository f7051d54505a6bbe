//! Points in time as people write and read them. Everything is UTC unless a text says otherwise.

use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Forms of time on the command line, by Hubble's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// `Jan _2 15:04:05.000`
    #[default]
    StampMilli,
    /// `2006-01-02`
    YearMonthDay,
    /// `2006-01-02T15Z07:00`
    YearMonthDayHour,
    /// `2006-01-02T15:04Z07:00`
    YearMonthDayHourMinute,
    /// `2006-01-02T15:04:05Z07:00`
    Rfc3339,
    /// With milliseconds.
    Rfc3339Milli,
    /// With microseconds.
    Rfc3339Micro,
    /// With nanoseconds.
    Rfc3339Nano,
    /// `Mon, 02 Jan 2006 15:04:05 -0700`
    Rfc1123Z,
}

impl TimeFormat {
    /// Every form with its name.
    pub const ALL: &[(&'static str, TimeFormat)] = &[
        ("StampMilli", TimeFormat::StampMilli),
        ("YearMonthDay", TimeFormat::YearMonthDay),
        ("YearMonthDayHour", TimeFormat::YearMonthDayHour),
        ("YearMonthDayHourMinute", TimeFormat::YearMonthDayHourMinute),
        ("RFC3339", TimeFormat::Rfc3339),
        ("RFC3339Milli", TimeFormat::Rfc3339Milli),
        ("RFC3339Micro", TimeFormat::Rfc3339Micro),
        ("RFC3339Nano", TimeFormat::Rfc3339Nano),
        ("RFC1123Z", TimeFormat::Rfc1123Z),
    ];

    /// The form of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, format)| *format)
    }

    fn pattern(self) -> &'static str {
        match self {
            Self::StampMilli => "%b %e %H:%M:%S%.3f",
            Self::YearMonthDay => "%Y-%m-%d",
            Self::YearMonthDayHour => "%Y-%m-%dT%HZ",
            Self::YearMonthDayHourMinute => "%Y-%m-%dT%H:%MZ",
            Self::Rfc3339 => "%Y-%m-%dT%H:%M:%SZ",
            Self::Rfc3339Milli => "%Y-%m-%dT%H:%M:%S%.3fZ",
            Self::Rfc3339Micro => "%Y-%m-%dT%H:%M:%S%.6fZ",
            Self::Rfc3339Nano => "%Y-%m-%dT%H:%M:%S%.9fZ",
            Self::Rfc1123Z => "%a, %d %b %Y %H:%M:%S +0000",
        }
    }
}

/// The time in this form, `N/A` if it is none.
#[must_use]
pub fn format(time: Option<&prost_types::Timestamp>, format: TimeFormat) -> String {
    let valid = time
        .filter(|time| (0..1_000_000_000).contains(&time.nanos))
        .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    valid.map_or_else(|| "N/A".to_owned(), |time| time.strftime(format.pattern()).to_string())
}

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a duration (such as 3s, 4m, 1h43m) nor a date (such as 2006-01-02T15:04:05Z)")]
pub struct TimeError(String);

/// Reads a point in time: so long before `now`, or one of the forms of [`TimeFormat`].
///
/// # Errors
/// It is none of these.
pub fn parse(text: &str, now: prost_types::Timestamp) -> Result<prost_types::Timestamp, TimeError> {
    let error = || TimeError(text.to_owned());
    let now = Timestamp::new(now.seconds, now.nanos).map_err(|_| error())?;
    let time = match duration(text) {
        Some(ago) => now.checked_sub(ago).map_err(|_| error())?,
        None => date(text, now).ok_or_else(error)?,
    };
    Ok(prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    })
}

/// Reads a length of time such as `1m30s`.
///
/// # Errors
/// It is none.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, TimeError> {
    let duration = duration(text).and_then(|duration| duration.try_into().ok());
    duration.ok_or_else(|| TimeError(text.to_owned()))
}

/// `1h2m3.5s` and the like, in the units of Go: h, m, s, ms, us, µs, ns.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(digits)?;
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(letters)?;
        sum = sum
            .checked_add(SignedDuration::try_from_secs_f64(number.parse::<f64>().ok()? * unit_seconds(unit)?).ok()?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

fn date(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S %z", text).and_then(|t| t.to_timestamp()) {
        return Some(time);
    }
    // Like Go, a stamp has no year; unlike Go, which takes the year 0, the present one is meant.
    let year = now.to_zoned(TimeZone::UTC).year();
    if let Ok(time) = jiff::fmt::strtime::parse("%Y %b %e %H:%M:%S%.f", format!("{year} {text}")) {
        return utc(time.to_datetime().ok()?);
    }
    if let Ok(date) = Date::strptime("%Y-%m-%d", text) {
        return utc(date.at(0, 0, 0, 0));
    }
    hours(text)
}

/// `2006-01-02T15Z`, `2006-01-02T15-07:00`, with or without minutes.
fn hours(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T')?;
    let zone = time.find(['Z', '+', '-'])?;
    let (clock, zone) = time.split_at_checked(zone)?;
    let (hour, minute) = clock.split_once(':').unwrap_or((clock, "00"));
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let date = Date::strptime("%Y-%m-%d", date).ok()?;
    let time = jiff::civil::Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()?;
    let offset = if zone == "Z" { Offset::UTC } else { zone_offset(zone)? };
    offset.to_timestamp(date.to_datetime(time)).ok()
}

/// `+02:00`
fn zone_offset(zone: &str) -> Option<Offset> {
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<u16>().ok()? * 60 + minutes.parse::<u16>().ok().filter(|m| *m < 60)?;
    let seconds = i32::from(seconds) * 60;
    Offset::from_seconds(if zone.starts_with('-') { -seconds } else { seconds }).ok()
}

fn utc(time: DateTime) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use super::{TimeFormat, format, parse, parse_duration};
    use proptest::prelude::*;
    use prost_types::Timestamp;

    const NOW: Timestamp = Timestamp {
        seconds: 1_700_000_000,
        nanos: 500_000_000,
    };

    fn parsed(text: &str) -> Option<(i64, i32)> {
        parse(text, NOW).ok().map(|t| (t.seconds, t.nanos))
    }

    #[test]
    fn durations_lie_before_now() {
        assert_eq!(parsed("3s"), Some((1_699_999_997, 500_000_000)));
        assert_eq!(parsed("1h43m"), Some((1_700_000_000 - 6180, 500_000_000)));
        assert_eq!(parsed("1.5s"), Some((1_699_999_999, 0)));
        assert_eq!(parsed("500ms"), Some((1_700_000_000, 0)));
    }

    #[test]
    fn dates_are_read_in_every_form() {
        let noon = 1_136_203_200; // 2006-01-02T12:00:00Z
        for text in [
            "2006-01-02T12Z",
            "2006-01-02T14+02:00",
            "2006-01-02T05:00-07:00",
            "2006-01-02T12:00:00Z",
            "2006-01-02T12:00:00.000Z",
            "2006-01-02T05:00:00.000000-07:00",
            "Mon, 02 Jan 2006 05:00:00 -0700",
        ] {
            assert_eq!(parsed(text), Some((noon, 0)), "{text}");
        }
        assert_eq!(parsed("2006-01-02"), Some((noon - 43_200, 0)));
        // NOW is in 2023.
        assert_eq!(parsed("Jan  2 12:00:00.250"), Some((1_672_660_800, 250_000_000)));
    }

    #[test]
    fn lengths_of_time_have_units() {
        let read = |text| parse_duration(text).ok().map(|duration| duration.as_millis());
        assert_eq!(read("1m30s"), Some(90_000));
        assert_eq!(read("250ms"), Some(250));
        assert_eq!((read("5"), read("-3s"), read("")), (None, None, None));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "s",
            "3",
            "3x",
            "-3s",
            "yesterday",
            "2006-13-02",
            "2006-01-02T1Z",
            "2006-01-02T12+99:99",
            "99999999999999999999h",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_in_every_form() {
        let time = Timestamp {
            seconds: 1234,
            nanos: 567_800_000,
        };
        let written: Vec<String> = TimeFormat::ALL.iter().map(|(_, f)| format(Some(&time), *f)).collect();
        assert_eq!(
            written,
            [
                "Jan  1 00:20:34.567",
                "1970-01-01",
                "1970-01-01T00Z",
                "1970-01-01T00:20Z",
                "1970-01-01T00:20:34Z",
                "1970-01-01T00:20:34.567Z",
                "1970-01-01T00:20:34.567800Z",
                "1970-01-01T00:20:34.567800000Z",
                "Thu, 01 Jan 1970 00:20:34 +0000",
            ]
        );
        assert_eq!(
            format(Some(&Timestamp { seconds: -1, nanos: -1 }), TimeFormat::StampMilli),
            "N/A"
        );
        assert_eq!(format(None, TimeFormat::StampMilli), "N/A");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".*") {
            let _ = parse(&text, NOW);
        }
    }
}
