//! Ending in order: stop accepting, let what runs finish, force what is left at the deadline. The same for the process and for
//! one listener of it. Owns every spawn of the data path. Must not know what the tasks do.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How long forced tasks may take to be dropped; longer means that one blocks its thread.
const FORCED_DROP_MS_MAX: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Forced,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every holder of a [`Watch`] finished in time.
    InTime,
    /// Some were cut at the deadline.
    Forced,
    /// Some didn't even end when they were cut.
    Stuck,
}

/// Starts the drain of everything that holds its [`Watch`]. Dropped without that, it starts it without a deadline.
#[derive(Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    /// Yields `None` when the last [`Watch`] is gone.
    holders: mpsc::Receiver<Infallible>,
}

/// Held by whatever must finish before the end, and told when the end comes.
#[derive(Clone, Debug)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
    _held: mpsc::Sender<Infallible>,
    parent: Option<Box<Watch>>,
}

pub fn new() -> (Trigger, Watch) {
    let (phase, receiver) = watch::channel(Phase::Running);
    let (held, holders) = mpsc::channel(1);
    (Trigger { phase, holders }, Watch { phase: receiver, _held: held, parent: None })
}

impl Trigger {
    /// Asks everybody to finish, without waiting.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// Asks everybody to finish, waits for it, and cuts off who is left at the deadline.
    pub async fn start_and_wait(mut self, deadline: Duration) -> Drained {
        self.start();
        if tokio::time::timeout(deadline, self.holders.recv()).await.is_ok() {
            return Drained::InTime;
        }
        self.advance(Phase::Forced);
        let dropped = Duration::from_millis(FORCED_DROP_MS_MAX);
        match tokio::time::timeout(dropped, self.holders.recv()).await {
            Ok(_) => Drained::Forced,
            Err(_) => Drained::Stuck,
        }
    }

    fn advance(&self, to: Phase) {
        self.phase.send_modify(|phase| *phase = to.max(*phase));
    }
}

impl Watch {
    /// A part that can be drained alone, and is drained with the whole: its watches hold the whole up too.
    pub fn child(&self) -> (Trigger, Self) {
        let (trigger, watch) = new();
        (trigger, Self { parent: Some(Box::new(self.clone())), ..watch })
    }

    pub fn is_draining(&self) -> bool {
        let own = *self.phase.borrow() >= Phase::Draining || self.phase.has_changed().is_err();
        own || self.parent.as_ref().is_some_and(|parent| parent.is_draining())
    }

    /// Resolves when the drain has started: accept nothing new, say goodbye (GOAWAY, `Connection: close`), finish. Cancel-safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves at the deadline.
    pub async fn forced(&self) {
        self.reached(Phase::Forced).await;
    }

    async fn reached(&self, wanted: Phase) {
        match &self.parent {
            None => reached(self.phase.clone(), wanted).await,
            // Boxed, as the depth isn't known; at most two in practice: process and listener.
            Some(parent) => tokio::select! {
                () = reached(self.phase.clone(), wanted) => {}
                () = Box::pin(parent.reached(wanted)) => {}
            },
        }
    }
}

async fn reached(mut phase: watch::Receiver<Phase>, wanted: Phase) {
    let gone = phase.wait_for(|phase| *phase >= wanted).await.is_err();
    if gone && wanted == Phase::Forced {
        // Nobody is left who could set a deadline.
        std::future::pending().await
    }
}

/// Runs `task` on this worker's `LocalSet`, counted among what must finish, dropped at the deadline.
pub fn spawn(watch: &Watch, task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let watch = watch.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            biased;
            () = task => {}
            () = watch.forced() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(10);

    async fn local<T>(test: impl Future<Output = T>) -> T {
        LocalSet::new().run_until(test).await
    }

    #[tokio::test]
    async fn a_drain_waits_for_tasks_that_finish_when_asked() {
        local(async {
            let (trigger, watch) = new();
            let finished = Rc::new(Cell::new(false));
            let (told, flag) = (watch.clone(), finished.clone());
            spawn(&watch, async move {
                told.draining().await;
                tokio::task::yield_now().await;
                flag.set(true);
            });
            assert!(!watch.is_draining());
            drop(watch);
            assert_eq!(trigger.start_and_wait(LONG).await, Drained::InTime);
            assert!(finished.get());
        })
        .await;
    }

    #[tokio::test]
    async fn tasks_that_do_not_finish_are_dropped_at_the_deadline() {
        local(async {
            let (trigger, watch) = new();
            let held = Rc::new(());
            let in_task = held.clone();
            spawn(&watch, async move {
                let _held = in_task;
                pending().await
            });
            drop(watch);
            assert_eq!(trigger.start_and_wait(SHORT).await, Drained::Forced);
            assert_eq!(Rc::strong_count(&held), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_listener_drains_alone() {
        local(async {
            let (_process, whole) = new();
            let (listener, part) = whole.child();
            let told = part.clone();
            spawn(&part, async move { told.draining().await });
            drop(part);
            assert_eq!(listener.start_and_wait(LONG).await, Drained::InTime);
            assert!(!whole.is_draining());
        })
        .await;
    }

    #[tokio::test]
    async fn the_process_drains_its_listeners_and_waits_for_them() {
        local(async {
            let (process, whole) = new();
            let (_listener, part) = whole.child();
            let told = part.clone();
            spawn(&part, async move { told.draining().await });
            spawn(&part, pending());
            drop((whole, part));
            assert_eq!(process.start_and_wait(SHORT).await, Drained::Forced);
        })
        .await;
    }

    #[tokio::test]
    async fn a_lost_trigger_drains_without_a_deadline() {
        let (trigger, watch) = new();
        drop(trigger);
        watch.draining().await;
        assert!(watch.is_draining());
        assert!(tokio::time::timeout(SHORT, watch.forced()).await.is_err());
    }
}
