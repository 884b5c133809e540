//! Percentiles of repeated measurements.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measurements of one thing, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one measurement.
    pub fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The largest; 0 when there is none.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.percentile(1.0)
    }

    /// The measurement below which `share` (0 to 1) of all lie; 0 when there is none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(0.0)
    }

    /// The median.
    #[must_use]
    pub fn p50(&self) -> f64 {
        self.percentile(0.5)
    }

    /// The 99th percentile.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.percentile(0.99)
    }
}

/// The middle one of repeated figures; 0 when there is none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Samples(values.into_iter().collect()).p50()
}

/// CLOCK_MONOTONIC, comparable between processes of one boot.
#[must_use]
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_one_to_a_hundred() {
        let mut samples = Samples::default();
        for ms in (1..=101).rev() {
            samples.push(Duration::from_millis(ms));
        }
        assert!((samples.p50() - 51.0).abs() < 1e-9);
        assert!((samples.p99() - 100.0).abs() < 1e-9);
    }
}
