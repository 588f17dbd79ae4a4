//! Counters that many threads add to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Takes back what was counted and does not count: it will be counted again.
    pub fn take_back(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets per doubling: a quantile is off by less than 10 %.
const BUCKETS_PER_OCTAVE: usize = 8;
const N_BUCKETS: usize = 40 * BUCKETS_PER_OCTAVE;

/// A histogram of durations, from a microsecond to days.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<AtomicU64>,
    micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: (0..N_BUCKETS).map(|_| AtomicU64::new(0)).collect(), micros: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a duration `n` times.
    pub fn record(&self, duration: Duration, n: u64) {
        let micros = duration.as_micros().max(1) as f64;
        let bucket = (micros.log2() * BUCKETS_PER_OCTAVE as f64) as usize;
        self.buckets[bucket.min(N_BUCKETS - 1)].fetch_add(n, Ordering::Relaxed);
        self.micros.fetch_add(duration.as_micros() as u64 * n, Ordering::Relaxed);
    }

    /// A copy of the counts, to take differences and quantiles of.
    pub fn counts(&self) -> HistogramCounts {
        HistogramCounts {
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            micros: self.micros.load(Ordering::Relaxed),
        }
    }
}

/// A histogram at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramCounts {
    buckets: Vec<u64>,
    micros: u64,
}

impl HistogramCounts {
    /// What has been counted since an earlier moment.
    pub fn since(&self, earlier: &HistogramCounts) -> HistogramCounts {
        let before = |idx: usize| earlier.buckets.get(idx).copied().unwrap_or(0);
        HistogramCounts {
            buckets: self.buckets.iter().enumerate().map(|(idx, n)| n - before(idx)).collect(),
            micros: self.micros - earlier.micros,
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// The duration that a share `q` of all are not above; zero where there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = (self.count() as f64 * q).ceil() as u64;
        let mut n_seen = 0;
        for (bucket, n) in self.buckets.iter().enumerate() {
            n_seen += n;
            if n_seen >= wanted && n_seen > 0 {
                let micros = ((bucket + 1) as f64 / BUCKETS_PER_OCTAVE as f64).exp2();
                return Duration::from_micros(micros as u64);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis), 1);
        }
        let counts = histogram.counts();
        for (q, millis) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = counts.quantile(q).as_secs_f64() * 1000.0;
            assert!((found / millis - 1.0).abs() < 0.1, "{q}: {found} for {millis}");
        }
        assert_eq!(counts.since(&counts).count(), 0);
        assert_eq!(HistogramCounts::default().quantile(0.5), Duration::ZERO);
    }
}
