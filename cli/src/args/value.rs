//! Values as people type them: durations, sizes, shares of a CPU, pairs, points in time.

use std::time::Duration;

use jiff::Timestamp;

/// A duration: `30s`, `1h 5m`, or a bare number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s, 5m or 1h30m"))
}

/// Bytes: `512M`, `2G`, `1.5GiB`; K, M, G, T are powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const HELP: &str = "write it like 512M, 2G or 1.5GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| HELP.to_owned())?;
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        _ => return Err(HELP.to_owned()),
    };
    let bytes = number * 1024f64.powi(power);
    // Beyond 2^53 a float no longer names every byte, and no machine has that much.
    if !(1.0..=9_007_199_254_740_992.0).contains(&bytes) {
        return Err(HELP.to_owned());
    }
    Ok(bytes as u64)
}

/// CPU in thousandths of a core: `2`, `0.5`, `500m`.
pub(crate) fn cpu_milli(text: &str) -> Result<u32, String> {
    const HELP: &str = "write it like 2, 0.5 or 500m (thousandths of a core)";
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>(),
        None => text.parse::<f64>().map(|cores| cores * 1000.0),
    }
    .map_err(|_| HELP.to_owned())?;
    if !(1.0..=f64::from(u32::MAX)).contains(&milli) {
        return Err(HELP.to_owned());
    }
    Ok(milli.round() as u32)
}

/// `key=value`; the value may hold further equal signs.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// An environment variable: `KEY=VALUE`, or `KEY` to hand on the present value.
pub(crate) fn env_var(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return pair(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => Err(format!("{text} is not set here; write {text}=VALUE")),
    }
}

/// A change of labels: `key=value` sets, `key-` removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    Set(String, String),
    Remove(String),
}

/// See [`LabelChange`].
pub(crate) fn label_change(text: &str) -> Result<LabelChange, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(LabelChange::Set(key.to_owned(), value.to_owned())),
        None if text.len() > 1 && text.ends_with('-') => {
            Ok(LabelChange::Remove(text.trim_end_matches('-').to_owned()))
        }
        _ => Err("write KEY=VALUE to set a label and KEY- to remove it".to_owned()),
    }
}

/// A point in time, milliseconds since the Unix epoch: RFC 3339, or how long ago (`10m`).
pub(crate) fn point_in_time(text: &str) -> Result<i64, String> {
    point_in_time_at(text, Timestamp::now())
}

fn point_in_time_at(text: &str, now: Timestamp) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    match duration(text) {
        Ok(ago) => {
            Ok(now.as_millisecond().saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)))
        }
        Err(_) => Err("write it like 10m (ago) or 2026-01-31T12:00:00Z".to_owned()),
    }
}

/// A position in the event log as typed after `--since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventPosition {
    /// After exactly this event.
    Event { incarnation: u64, index: u64, ordinal: u32 },
    /// After everything of this index, in the cluster's present incarnation.
    Index(u64),
}

/// `INDEX`, or a whole event id `INCARNATION.INDEX.ORDINAL`. Two numbers would be an epoch, which is no position.
pub(crate) fn event_position(text: &str) -> Result<EventPosition, String> {
    const HELP: &str = "write an event id like 1.42.0, or a bare index like 42";
    let number = |part: &str| part.parse::<u64>().map_err(|_| HELP.to_owned());
    match text.split('.').collect::<Vec<_>>().as_slice() {
        [index] => Ok(EventPosition::Index(number(index)?)),
        [incarnation, index, ordinal] => Ok(EventPosition::Event {
            incarnation: number(incarnation)?,
            index: number(index)?,
            ordinal: ordinal.parse().map_err(|_| HELP.to_owned())?,
        }),
        _ => Err(HELP.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("100"), Ok(100));
        for bad in ["", "x", "1X", "0", "-1", "9999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_of_a_cpu() {
        assert_eq!((cpu_milli("2"), cpu_milli("0.5"), cpu_milli("250m")), (Ok(2000), Ok(500), Ok(250)));
        for bad in ["", "0", "m", "-1", "1e30"] {
            assert!(cpu_milli(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_and_labels() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(label_change("zone=a"), Ok(LabelChange::Set("zone".to_owned(), "a".to_owned())));
        assert_eq!(label_change("zone-"), Ok(LabelChange::Remove("zone".to_owned())));
        assert!(label_change("zone").is_err() && label_change("-").is_err());
    }

    #[test]
    fn points_in_time() {
        let now = Timestamp::from_second(1_000).unwrap();
        assert_eq!(point_in_time_at("10s", now), Ok(990_000));
        assert_eq!(point_in_time_at("1970-01-01T00:00:05Z", now), Ok(5_000));
        assert!(point_in_time_at("yesterday", now).is_err());
    }

    #[test]
    fn event_positions() {
        let whole = EventPosition::Event { incarnation: 1, index: 42, ordinal: 3 };
        assert_eq!(event_position("1.42.3"), Ok(whole));
        assert_eq!(event_position("42"), Ok(EventPosition::Index(42)));
        for bad in ["", "x", "1.2", "1.2.3.4", "-1", "1.2.x"] {
            assert!(event_position(bad).is_err(), "{bad}");
        }
    }
}
