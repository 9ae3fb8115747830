//! What many repetitions of one thing took.

use std::fmt;
use std::time::{Duration, Instant};

/// How long something took: in the middle, for all but one in a hundred, and at worst.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Half of the repetitions took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

impl Figures {
    /// Runs `once` `count` times, after a tenth of that to warm up, and measures each. The first error ends it.
    pub fn measure<E>(count: usize, mut once: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        for _ in 0..count / 10 {
            once()?;
        }
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            once()?;
            times.push(begun.elapsed());
        }
        Ok(Self::of(times))
    }

    /// The figures of what was measured.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |hundredths: usize| {
            times.get(times.len() * hundredths / 100).or(times.last()).copied().unwrap_or_default()
        };
        Self { median: at(50), p99: at(99), max: times.last().copied().unwrap_or_default() }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (median, p99, max) = (micros(self.median), micros(self.p99), micros(self.max));
        write!(f, "median {median:8.1} µs   p99 {p99:8.1} µs   max {max:8.1} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_order_and_errors_end_the_measurement() {
        let nap = || {
            std::thread::sleep(Duration::from_micros(10));
            Ok::<(), ()>(())
        };
        let Figures { median, p99, max } = Figures::measure(50, nap).unwrap();
        assert!(Duration::from_micros(10) <= median && median <= p99 && p99 <= max);
        assert_eq!(Figures::measure(10, || Err("no")).unwrap_err(), "no");
    }
}
