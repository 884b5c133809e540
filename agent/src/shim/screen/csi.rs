//! A control sequence taken apart.

/// Parameters of one sequence that are looked at; more are ignored (as `vte` does).
const PARAMS_MAX: usize = 32;

/// `ESC [ prefix params intermediates final`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Csi {
    /// One of `< = > ?`, else 0.
    pub(super) prefix: u8,
    /// Each with its colon-separated parts; an empty one is 0.
    pub(super) params: Vec<Vec<u16>>,
    /// The single intermediate, else 0. Sequences with more than one do not exist in practice.
    pub(super) intermediate: u8,
    pub(super) action: u8,
}

impl Csi {
    /// Takes apart what follows `ESC [`; `None` for what is no sequence.
    #[must_use]
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (action, rest) = body.split_last()?;
        let (prefix, rest) = match rest.split_first() {
            Some((prefix @ (b'<' | b'=' | b'>' | b'?'), rest)) => (*prefix, rest),
            _ => (0, rest),
        };
        let end = rest.iter().position(|byte| (0x20..=0x2f).contains(byte)).unwrap_or(rest.len());
        let (params, intermediates) = rest.split_at(end);
        if intermediates.len() > 1 || params.iter().any(|byte| matches!(byte, b'<'..=b'?')) {
            return None;
        }
        let params = if params.is_empty() { Vec::new() } else { parse_params(params) };
        Some(Self {
            prefix,
            params,
            intermediate: intermediates.first().copied().unwrap_or(0),
            action: *action,
        })
    }

    /// First part of parameter `at`, 0 when absent.
    #[must_use]
    pub(super) fn param(&self, at: usize) -> u16 {
        self.params.get(at).and_then(|parts| parts.first()).copied().unwrap_or(0)
    }

    /// As [`Csi::param`], with 0 standing for `default`.
    #[must_use]
    pub(super) fn param_or(&self, at: usize, default: u16) -> u16 {
        match self.param(at) {
            0 => default,
            value => value,
        }
    }
}

fn parse_params(bytes: &[u8]) -> Vec<Vec<u16>> {
    bytes.split(|byte| *byte == b';').take(PARAMS_MAX).map(parse_parts).collect()
}

fn parse_parts(bytes: &[u8]) -> Vec<u16> {
    bytes.split(|byte| *byte == b':').take(PARAMS_MAX).map(number).collect()
}

fn number(digits: &[u8]) -> u16 {
    digits
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0u16, |value, byte| value.saturating_mul(10).saturating_add(u16::from(byte - b'0')))
}

/// Rewrites the parameters of an SGR sequence into what the emulator understands without misreading the rest:
/// curly and other underlines become plain ones, colours with colon syntax lose their colour space, underline
/// colours (58) go. `None` when nothing is left to send.
#[must_use]
pub(super) fn plain_sgr(csi: &Csi) -> Option<String> {
    let mut out: Vec<String> = Vec::new();
    let mut params = csi.params.iter();
    while let Some(parts) = params.next() {
        match parts.as_slice() {
            [58] => skip_colour(&mut params),
            [58 | 59, ..] => {}
            [4, 0, ..] => out.push("24".into()),
            [4, _, ..] | [21] => out.push("4".into()),
            [kind @ (38 | 48), 2, rest @ ..] if rest.len() >= 3 => {
                let rgb = &rest[rest.len().min(4) - 3..];
                out.push(format!("{kind};2;{};{};{}", rgb[0], rgb[1], rgb[2]));
            }
            [kind @ (38 | 48), 5, index, ..] => out.push(format!("{kind};5;{index}")),
            [kind @ (38 | 48)] => {
                out.push(kind.to_string());
                let Some(space) = params.next() else { continue };
                out.push(space.first().copied().unwrap_or(0).to_string());
                let count = if space.first() == Some(&2) { 3 } else { 1 };
                out.extend(
                    params.by_ref().take(count).map(|parts| parts.first().copied().unwrap_or(0).to_string()),
                );
            }
            [value, ..] => out.push(value.to_string()),
            [] => out.push("0".into()),
        }
    }
    if csi.params.is_empty() {
        return Some(String::new());
    }
    (!out.is_empty()).then(|| out.join(";"))
}

fn skip_colour<'a>(params: &mut impl Iterator<Item = &'a Vec<u16>>) {
    let count = match params.next().and_then(|parts| parts.first()) {
        Some(2) => 3,
        Some(5) => 1,
        _ => 0,
    };
    for _ in 0..count {
        params.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_come_apart() {
        let csi = Csi::parse(b"?1049;25h").unwrap();
        assert_eq!(
            (csi.prefix, csi.action, csi.param(0), csi.param(1), csi.param(2)),
            (b'?', b'h', 1049, 25, 0)
        );
        let csi = Csi::parse(b"?12$p").unwrap();
        assert_eq!((csi.intermediate, csi.action), (b'$', b'p'));
        assert_eq!(Csi::parse(b"99999999m").unwrap().param(0), u16::MAX);
        assert_eq!(Csi::parse(b"1<m"), None);
        assert_eq!(Csi::parse(b""), None);
    }

    #[test]
    fn sgr_becomes_plain() {
        let plain = |body: &[u8]| plain_sgr(&Csi::parse(body).unwrap());
        assert_eq!(plain(b"m"), Some(String::new()));
        assert_eq!(plain(b"1;31m"), Some("1;31".into()));
        assert_eq!(plain(b"4:3;58;2;255;0;0;1m"), Some("4;1".into()));
        assert_eq!(plain(b"58:2::1:2:3m"), None);
        assert_eq!(plain(b"38:2::1:2:3;48:5:7m"), Some("38;2;1;2;3;48;5;7".into()));
        assert_eq!(plain(b"38:2:1:2:3m"), Some("38;2;1;2;3".into()));
        assert_eq!(plain(b"38;2;58;4;21;1m"), Some("38;2;58;4;21;1".into()));
        assert_eq!(plain(b"4:0m"), Some("24".into()));
    }
}
