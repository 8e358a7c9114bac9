//! What may be different in rows that were made in an earlier world. It knows no row.

use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Clone)]
pub(super) enum Stale {
    /// What depends on these services, and which names there are.
    Services(BTreeSet<Arc<str>>),
    Everything,
}

impl Stale {
    /// What was stale before (None = nothing), and these services.
    pub(super) fn and(before: Option<&Self>, touched: &BTreeSet<Arc<str>>) -> Self {
        match before {
            None => Self::Services(touched.clone()),
            Some(Self::Services(before)) => Self::Services(before.union(touched).cloned().collect()),
            Some(Self::Everything) => Self::Everything,
        }
    }
}
