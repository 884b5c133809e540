//! How this program was called, so that the commands it suggests can be pasted as they are.

use std::sync::OnceLock;

/// The name in every text of ours.
const NAME: &str = "stratavore";

static CALLED: OnceLock<String> = OnceLock::new();

/// Remembers the first word of the command line. A bare name is found on PATH again; a path is repeated.
pub(crate) fn set(word: &str) {
    // Called once, by main; a second word would change nothing.
    CALLED.set(if word.contains('/') { word.to_owned() } else { NAME.to_owned() }).ok();
}

/// The program as it was called.
pub(crate) fn called() -> &'static str {
    CALLED.get().map_or(NAME, String::as_str)
}

/// `text` with suggested commands (`stratavore VERB …`) as they must be typed here.
pub(crate) fn hinted(text: &str) -> String {
    hinted_as(text, called())
}

fn hinted_as(text: &str, called: &str) -> String {
    if called == NAME {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        let (before, tail) = rest.split_at(at);
        let tail = &tail[NAME.len()..];
        let begins = before.chars().next_back().is_none_or(|c| matches!(c, ' ' | '(' | '"' | '`'));
        let goes_on = tail
            .strip_prefix(' ')
            .is_some_and(|t| t.starts_with(|c: char| c.is_ascii_alphabetic() || c == '-'));
        out.push_str(before);
        out.push_str(if begins && goes_on { called } else { NAME });
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_suggested_as_the_program_was_called() {
        let hint = |text| hinted_as(text, "target/release/stratavore");
        assert_eq!(hint("stratavore up"), "target/release/stratavore up");
        assert_eq!(
            hint("run stratavore doctor, (stratavore x)"),
            "run target/release/stratavore doctor, (target/release/stratavore x)"
        );
        assert_eq!(
            hint("stratavore-agent join; /etc/stratavore x; stratavored run"),
            "stratavore-agent join; /etc/stratavore x; stratavored run"
        );
        assert_eq!(hinted_as("stratavore up", "stratavore"), "stratavore up");
    }
}
