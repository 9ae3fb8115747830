//! Whether a worker that lives gets on: one that hangs is as good as dead, and is replaced like one.

use std::time::{Duration, Instant};

use selvedge_worker_proto::StatusOk;

/// The longest time between two questions.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// How often in a row a request has to be found stuck: threads are looked at in one instant, and a slow disk shows a
/// thread asleep now and then.
const STRIKES: u32 = 3;

/// What is known of how the present worker gets on.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// How long it may answer nothing, or be stuck at a request; `None`: for ever.
    limit: Option<Duration>,
    next: Instant,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    strikes: u32,
}

impl Heartbeat {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        let mut heartbeat = Self { limit, next: Instant::now(), asked: None, strikes: 0 };
        heartbeat.begin();
        heartbeat
    }

    /// A worker begins to serve.
    pub(crate) fn begin(&mut self) {
        (self.asked, self.strikes) = (None, 0);
        self.next = Instant::now() + self.interval();
    }

    /// When the next question is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.limit.map(|_| self.next)
    }

    /// The time for a question has come: whether to ask it, or why the worker hangs.
    pub(crate) fn tick(&mut self) -> Result<bool, String> {
        self.next = Instant::now() + self.interval();
        match (self.asked, self.limit) {
            (None, _) => {
                self.asked = Some(Instant::now());
                Ok(true)
            }
            (Some(asked), Some(limit)) if asked.elapsed() >= limit => {
                Err(format!("it answered nothing for {} s", limit.as_secs_f32()))
            }
            _ => Ok(false),
        }
    }

    /// The worker answers: fine, or why it hangs.
    pub(crate) fn answered(&mut self, status: &StatusOk) -> Result<(), String> {
        self.asked = None;
        let stuck = status.stuck_ms.map(Duration::from_millis);
        match (stuck, self.limit) {
            (Some(stuck), Some(limit)) if stuck >= limit => {
                self.strikes += 1;
                if self.strikes < STRIKES {
                    return Ok(());
                }
                Err(format!("a request hung for {} s", stuck.as_secs_f32()))
            }
            _ => {
                self.strikes = 0;
                Ok(())
            }
        }
    }

    fn interval(&self) -> Duration {
        self.limit.map_or(LONGEST_INTERVAL, |limit| (limit / 6).min(LONGEST_INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(60);

    fn status(stuck_ms: Option<u64>) -> StatusOk {
        StatusOk {
            pid: 1,
            mount_path: "/m".into(),
            requests: 0,
            operations: std::collections::BTreeMap::new(),
            oldest_request_ms: stuck_ms,
            stuck_ms,
            uptime_ms: 1,
            read_only: false,
            fruitless: None,
            passed_opens: 0,
        }
    }

    #[test]
    fn silence_and_stuck_requests_count_after_the_limit_only() {
        let mut heartbeat = Heartbeat::new(Some(LIMIT));
        assert_eq!(heartbeat.tick(), Ok(true));
        assert_eq!(heartbeat.tick(), Ok(false));
        std::thread::sleep(LIMIT);
        assert!(heartbeat.tick().unwrap_err().contains("nothing"));
        heartbeat.begin();
        for (stuck, hangs) in
            [(59, false), (60, false), (61, false), (10, false), (60, false), (61, false), (62, true)]
        {
            assert_eq!(heartbeat.answered(&status(Some(stuck))).is_err(), hangs, "{stuck}");
        }
        assert_eq!(heartbeat.answered(&status(None)), Ok(()));
    }

    #[test]
    fn without_a_limit_nothing_is_asked() {
        assert_eq!(Heartbeat::new(None).due(), None);
    }
}
