//! What a peer may have us do for nothing: cancelled requests and control frames cost; served requests earn, and data that
//! is sent. Must not know frames.

use super::frame::Code;
use std::time::Instant;

/// Requests cancelled before their answer, beyond as many as were served.
const CANCELLED_MAX: u32 = 200;
const CANCELLED_PER_S: u32 = 50;
/// Frames that bring no request on: SETTINGS, PING, PRIORITY, empty DATA, frames on ended streams, unknown ones.
const NOISE_MAX: u32 = 2000;
const NOISE_PER_S: u32 = 200;
const EARNED_MAX: u32 = 10_000;

pub(super) struct Budget {
    cancels: u32,
    noise: u32,
    filled_at: Instant,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { cancels: CANCELLED_MAX, noise: NOISE_MAX, filled_at: Instant::now() }
    }

    pub(super) fn cancelled(&mut self) -> Result<(), Code> {
        if self.cancels == 0 {
            self.refill();
        }
        self.cancels = self.cancels.checked_sub(1).ok_or(Code::EnhanceYourCalm)?;
        Ok(())
    }

    pub(super) fn noise(&mut self) -> Result<(), Code> {
        if self.noise == 0 {
            self.refill();
        }
        self.noise = self.noise.checked_sub(1).ok_or(Code::EnhanceYourCalm)?;
        Ok(())
    }

    pub(super) fn served(&mut self) {
        self.cancels = (self.cancels + 1).min(EARNED_MAX);
        self.noise = (self.noise + 8).min(EARNED_MAX);
    }

    /// A frame of data was sent. gRPC's peers answer each with a ping, to learn how much is on its way.
    pub(super) fn moved(&mut self) {
        self.noise = (self.noise + 1).min(EARNED_MAX);
    }

    /// Looks at the clock only when it matters.
    fn refill(&mut self) {
        let seconds = u32::try_from(self.filled_at.elapsed().as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.filled_at = Instant::now();
            self.cancels = CANCELLED_PER_S.saturating_mul(seconds).saturating_add(self.cancels).min(CANCELLED_MAX);
            self.noise = NOISE_PER_S.saturating_mul(seconds).saturating_add(self.noise).min(NOISE_MAX);
        }
    }
}
