//! The time that new rows get.

use rustix::time::{ClockId, clock_gettime};
use selvedge_store::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};

/// How far ahead of the coarse clock a host file's time may be: a timer tick, with room. Anything further
/// ahead was set by a program and is no measure of now.
const TICK_NS: i64 = 20_000_000;

/// Gives times that agree with those the host gives to working files.
///
/// The kernel stamps files with its coarse clock, or a finer one for files somebody looked at (multigrain
/// timestamps, Linux 6.13), and never goes back behind a fine stamp it gave out. A row stamped from the
/// precise clock would seem newer than a working file written after it, and one stamped from the coarse clock
/// older than one written before it; make(1) trusts that neither happens. So the coarse clock counts, but never
/// less than the newest stamp seen on a working file.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    newest_seen: AtomicI64,
}

impl Clock {
    /// Takes note of a stamp that the host gave.
    pub(crate) fn saw(&self, time: Timestamp) {
        self.newest_seen.fetch_max(nanoseconds(time), Ordering::Relaxed);
    }

    /// The time of a change that is made at this moment.
    pub(crate) fn now(&self) -> Timestamp {
        let coarse = clock_gettime(ClockId::RealtimeCoarse);
        let coarse = coarse.tv_sec * 1_000_000_000 + coarse.tv_nsec;
        let seen = self.newest_seen.load(Ordering::Relaxed);
        let now = if seen > coarse && seen - coarse <= TICK_NS { seen } else { coarse };
        Timestamp {
            sec: now.div_euclid(1_000_000_000),
            nsec: u32::try_from(now.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    time.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_never_older_than_a_file_written_before_it() {
        let clock = Clock::default();
        let start = clock.now();
        let fine = Timestamp { sec: start.sec, nsec: start.nsec };
        let ahead = nanoseconds(fine) + 3_000_000;
        clock.saw(Timestamp {
            sec: ahead / 1_000_000_000,
            nsec: u32::try_from(ahead % 1_000_000_000).unwrap(),
        });
        assert!(nanoseconds(clock.now()) >= ahead);
    }

    #[test]
    fn a_time_set_into_the_future_does_not_move_the_clock() {
        let clock = Clock::default();
        let start = clock.now();
        clock.saw(Timestamp { sec: start.sec + 3600, nsec: 0 });
        assert!(clock.now().sec < start.sec + 60);
    }
}
