//! Points in time as file systems keep them.

use std::fmt;
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

/// RFC 3339 in UTC with all nanoseconds: `2026-11-21T18:30:05.000000001Z`. Years beyond 9999 or before 0 have a sign, as
/// ISO 8601 wants it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, second) = (self.sec.div_euclid(86_400), self.sec.rem_euclid(86_400));
        let (year, month, day) = civil(day);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+05}")?,
        }
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", self.nsec)
    }
}

/// Year, month and day of the `day`-th day after 1970-01-01, in the Gregorian calendar extended to all times. Years are
/// counted from March here, so that a leap day is the last of its year; 400 of them have 146 097 days.
const fn civil(day: i64) -> (i64, i64, i64) {
    // From 0000-03-01 on.
    let day = day + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, again and again.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
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

    #[test]
    fn times_are_shown_as_rfc_3339() {
        let shown = |sec, nsec| Timestamp { sec, nsec }.to_string();
        assert_eq!(shown(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(shown(-1, 999_999_999), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(shown(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(shown(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z");
        assert_eq!(shown(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(shown(1_795_286_250, 5), "2026-11-21T18:37:30.000000005Z");
        assert_eq!(shown(253_402_300_800, 0), "+10000-01-01T00:00:00.000000000Z");
        assert!(shown(i64::MAX, 0).starts_with("+292277026596-12-04"));
    }
}
