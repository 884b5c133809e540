//! What a child that could not become the command says of it.

/// Bytes of a report: step, errno.
const FAILURE_BYTES: usize = 8;

/// The step at which a command failed to start, as sent over the report pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Namespace,
    Terminal,
    Workdir,
    Program,
}

impl Step {
    /// What the child sends over the report pipe.
    pub(super) fn report(self, errno: i32) -> [u8; FAILURE_BYTES] {
        let mut bytes = [0; FAILURE_BYTES];
        bytes[..4].copy_from_slice(&self.number().to_le_bytes());
        bytes[4..].copy_from_slice(&errno.to_le_bytes());
        bytes
    }

    const fn number(self) -> i32 {
        match self {
            Self::Namespace => 1,
            Self::Terminal => 2,
            Self::Workdir => 3,
            Self::Program => 4,
        }
    }

    const fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Namespace,
            3 => Self::Workdir,
            4 => Self::Program,
            _ => Self::Terminal,
        }
    }
}

/// Reads a failure report: step and errno.
pub(super) fn read(bytes: &[u8]) -> Option<(Step, i32)> {
    let (step, rest) = bytes.split_first_chunk::<4>()?;
    let errno = rest.first_chunk::<4>()?;
    Some((Step::from_number(i32::from_le_bytes(*step)), i32::from_le_bytes(*errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back() {
        for step in [Step::Namespace, Step::Terminal, Step::Workdir, Step::Program] {
            assert_eq!(read(&step.report(13)), Some((step, 13)));
        }
        assert_eq!(read(b""), None, "a successful exec says nothing");
    }
}
