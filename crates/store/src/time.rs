//! Points in time as file systems keep them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds and nanoseconds since 1970-01-01 00:00:00 UTC. Before it, `sec` is negative and `nsec`
/// still counts forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds past `sec`, below 1 000 000 000.
    pub nsec: u32,
}

impl Timestamp {
    /// How many nanoseconds a second has.
    pub const NSEC_PER_SEC: u32 = 1_000_000_000;

    /// The current time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Whether `nsec` is in its range.
    pub const fn is_valid(self) -> bool {
        self.nsec < Self::NSEC_PER_SEC
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                Self { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
            }
            Err(before) => {
                let before = before.duration();
                let sec = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { sec: -sec, nsec: 0 },
                    nsec => Self { sec: -sec - 1, nsec: Self::NSEC_PER_SEC - nsec },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_1970_count_forward_from_an_earlier_second() {
        let time = UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(Timestamp::from(time), Timestamp { sec: -1, nsec: 999_999_999 });
        let time = UNIX_EPOCH - Duration::from_secs(2);
        assert_eq!(Timestamp::from(time), Timestamp { sec: -2, nsec: 0 });
    }
}
