//! The time, read once a turn of a worker's event loop: what is ready together happens at the same instant. Good for
//! durations in milliseconds; deadlines made from it are early by a turn at most. Must not know what it is used for.

use std::cell::Cell;
use tokio::time::Instant;

/// A turn that serves more than this many looks at its clock again.
const USES_MAX: u8 = 64;

#[derive(Clone, Copy)]
enum Turn {
    /// Nobody says when turns begin: each look is a real one.
    Unknown,
    /// No look yet in this one.
    New,
    At(Instant, u8),
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Unknown) };
}

/// The thread's event loop has waited.
pub(crate) fn begin_turn() {
    TURN.set(Turn::New);
}

/// Now, or a moment ago in the same turn.
#[inline]
pub(crate) fn now() -> Instant {
    let (at, uses) = match TURN.get() {
        Turn::At(at, uses) if uses < USES_MAX => (at, uses + 1),
        Turn::Unknown => return Instant::now(),
        Turn::New | Turn::At(..) => (Instant::now(), 0),
    };
    TURN.set(Turn::At(at, uses));
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_within_a_turn_but_not_for_ever() {
        assert!(now() < now() + std::time::Duration::from_nanos(1));
        begin_turn();
        let first = now();
        assert!((0..USES_MAX).all(|_| now() == first));
        while Instant::now() == first {}
        assert!(now() > first);
        let later = now();
        while Instant::now() == later {}
        begin_turn();
        assert!(now() > later);
    }
}
