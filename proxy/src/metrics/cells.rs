//! A series' counters: cells that one thread alone writes, without an atomic step, and that are summed up when they are read.
//! Must not know labels.

use super::DURATION_BUCKETS_S;
use crate::error::Reason;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A count that one thread writes and any reads. Gauges go down by wrapping.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    fn subtract(&self, count: u64) {
        self.add(count.wrapping_neg());
    }
}

/// What one thread counted.
#[derive(Debug, Default)]
struct Cells {
    connections: Cell,
    active: Cell,
    /// By first digit of the status.
    requests: [Cell; 6],
    active_requests: Cell,
    received: Cell,
    sent: Cell,
    /// One a bucket, then the rest.
    durations: [Cell; DURATION_BUCKETS_S.len() + 1],
    duration_us: Cell,
}

/// The counters of one service (and route).
#[derive(Debug, Default)]
pub(super) struct Series {
    /// By number of the thread.
    cells: Mutex<Vec<(u64, Arc<Cells>)>>,
    /// Rare enough for a lock.
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

/// What all threads counted together.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) connections: u64,
    pub(super) active: u64,
    pub(super) requests: [u64; 6],
    pub(super) active_requests: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) durations: [u64; DURATION_BUCKETS_S.len() + 1],
    pub(super) duration_us: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
}

/// The counters of one service (and route), for the thread that asked for them.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Rc<Own>);

#[derive(Debug)]
struct Own {
    cells: Arc<Cells>,
    series: Arc<Series>,
}

/// A connection that counts as active until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard(Handle);

/// A request that counts as active until it is dropped.
#[derive(Debug)]
pub(crate) struct RequestGuard(Handle);

impl Series {
    pub(super) fn active(&self) -> u64 {
        self.sums().active
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for (_, cells) in self.cells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            cells.add_to(&mut sums);
        }
        sums.failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sums
    }

    /// This thread's own.
    fn cells(&self) -> Arc<Cells> {
        let thread = thread();
        let mut all = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter().find(|(of, _)| *of == thread) {
            Some((_, cells)) => Arc::clone(cells),
            None => {
                let cells = Arc::<Cells>::default();
                all.push((thread, Arc::clone(&cells)));
                cells
            }
        }
    }
}

/// A number that no other thread ever has.
fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static OWN: u64 = NEXT.fetch_add(1, Relaxed);
    }
    OWN.with(|own| *own)
}

impl Cells {
    fn add_to(&self, sums: &mut Sums) {
        let add = |sum: &mut u64, cell: &Cell| *sum = sum.wrapping_add(cell.0.load(Relaxed));
        add(&mut sums.connections, &self.connections);
        add(&mut sums.active, &self.active);
        sums.requests.iter_mut().zip(&self.requests).for_each(|(sum, cell)| add(sum, cell));
        add(&mut sums.active_requests, &self.active_requests);
        add(&mut sums.received, &self.received);
        add(&mut sums.sent, &self.sent);
        sums.durations.iter_mut().zip(&self.durations).for_each(|(sum, cell)| add(sum, cell));
        add(&mut sums.duration_us, &self.duration_us);
    }
}

impl Handle {
    pub(super) fn new(series: &Arc<Series>) -> Self {
        Self(Rc::new(Own { cells: series.cells(), series: Arc::clone(series) }))
    }

    /// Counts a connection.
    pub(crate) fn connection(&self) -> ConnectionGuard {
        self.0.cells.connections.add(1);
        self.0.cells.active.add(1);
        ConnectionGuard(self.clone())
    }

    /// Counts a request from now on.
    pub(crate) fn request(&self) -> RequestGuard {
        self.0.cells.active_requests.add(1);
        RequestGuard(self.clone())
    }

    /// A request was answered with this status, after this long.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        let cells = &self.0.cells;
        if let Some(class) = cells.requests.get(usize::from(status / 100)) {
            class.add(1);
        }
        let bucket = DURATION_BUCKETS_S.iter().take_while(|bound| took.as_secs_f64() > **bound).count();
        if let Some(bucket) = cells.durations.get(bucket) {
            bucket.add(1);
        }
        cells.duration_us.add(took.as_micros() as u64);
    }

    /// Bytes of payload from and to the downstream.
    pub(crate) fn bytes(&self, received: u64, sent: u64) {
        self.0.cells.received.add(received);
        self.0.cells.sent.add(sent);
    }

    pub(crate) fn failed(&self, reason: Reason) {
        let mut failures = self.0.series.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(reason.consequence().label).or_default() += 1;
    }
}

impl ConnectionGuard {
    pub(crate) fn handle(&self) -> &Handle {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.0.cells.active.subtract(1);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.0.cells.active_requests.subtract(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_count_at_the_same_time_lose_nothing() {
        const EACH: u64 = 20_000;
        let series = Arc::new(Series::default());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let (handle, other) = (Handle::new(&series), Handle::new(&series));
                    for _ in 0..EACH {
                        drop((handle.request(), other.connection()));
                        handle.bytes(1, 2);
                        other.answered(200, Duration::from_micros(3));
                    }
                });
            }
        });
        let sums = series.sums();
        assert_eq!((sums.connections, sums.active, sums.active_requests), (3 * EACH, 0, 0));
        assert_eq!((sums.received, sums.sent), (3 * EACH, 6 * EACH));
        assert_eq!((sums.requests[2], sums.durations[0], sums.duration_us), (3 * EACH, 3 * EACH, 9 * EACH));
    }
}
