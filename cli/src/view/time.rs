//! Points in time and ages.

use jiff::Timestamp;

/// RFC 3339 in UTC with milliseconds; 0 means not known yet.
pub(crate) fn rfc3339(unix_ms: i64) -> Option<String> {
    if unix_ms == 0 {
        return None;
    }
    let time = Timestamp::from_millisecond(unix_ms).ok()?;
    Some(format!("{time:.3}"))
}

/// How long ago, in its largest unit: `5s`, `3m`, `2h`, `4d`; `-` when not known.
pub(crate) fn age(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return "-".to_owned();
    }
    span(Timestamp::now().as_millisecond().saturating_sub(unix_ms))
}

/// How long until then, rounded up, in its largest unit; `0s` when it is past.
pub(crate) fn until(unix_ms: i64) -> String {
    span(unix_ms.saturating_sub(Timestamp::now().as_millisecond()).saturating_add(999))
}

/// A length of time in its largest unit.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339_or_unknown() {
        assert_eq!(rfc3339(1_700_000_000_123).unwrap(), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(1_700_000_000_000).unwrap(), "2023-11-14T22:13:20.000Z");
        assert_eq!(rfc3339(0), None);
        assert_eq!(rfc3339(i64::MAX), None);
    }

    #[test]
    fn spans_have_one_unit() {
        let spans = [0, 59_999, 60_000, 7_200_000, 200_000_000, -5].map(span);
        assert_eq!(spans, ["0s", "59s", "1m", "2h", "2d", "0s"]);
    }
}
