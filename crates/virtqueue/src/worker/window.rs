//! How long polling pays.

use std::time::Duration;

/// Shortest time worth polling for.
const LEAST: u64 = 1_000;

/// The time for which a worker polls before it sleeps: doubled when work comes while it polls or
/// soon after it has gone to sleep, halved when it polls in vain.
#[derive(Debug, Default)]
pub(crate) struct Window {
    ns: u64,
}

impl Window {
    /// How long to poll now.
    pub(crate) fn now(&mut self, limit: u64) -> Duration {
        self.ns = self.ns.clamp(LEAST.min(limit), limit);
        Duration::from_nanos(self.ns)
    }

    /// Work came while polling.
    pub(crate) fn hit(&mut self, limit: u64) {
        self.ns = self.ns.saturating_mul(2).min(limit);
    }

    /// None came.
    pub(crate) fn miss(&mut self) {
        self.ns /= 2;
    }

    /// Work came when the worker had slept for `slept`: had it polled for longer, it would have been there.
    pub(crate) fn woken(&mut self, slept: Duration, limit: u64) {
        if slept < Duration::from_nanos(limit) {
            // Undoes the halving, too.
            self.ns = self.ns.max(LEAST).saturating_mul(4).min(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_limit_and_adapts() {
        let limit = 50_000;
        let mut window = Window::default();
        assert_eq!(window.now(0), Duration::ZERO);
        assert_eq!(window.now(limit), Duration::from_nanos(LEAST));
        for _ in 0..20 {
            window.hit(limit);
        }
        assert_eq!(window.now(limit), Duration::from_nanos(limit));
        for _ in 0..20 {
            window.miss();
        }
        assert_eq!(window.now(limit), Duration::from_nanos(LEAST));
        window.woken(Duration::from_millis(1), limit);
        assert_eq!(
            window.now(limit),
            Duration::from_nanos(LEAST),
            "that was too long to poll for"
        );
        window.woken(Duration::from_micros(10), limit);
        assert!(window.now(limit) > Duration::from_nanos(LEAST));
        assert_eq!(
            window.now(10),
            Duration::from_nanos(10),
            "a lower limit holds at once"
        );
    }
}
