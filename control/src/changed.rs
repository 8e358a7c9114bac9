//! What differs between two sorted lists of resources, by identity: a resource that didn't change is the same
//! allocation in both. It must not know what a change means.

use crate::resource::Resource;
use std::cmp::Ordering;
use std::sync::Arc;

/// A resource before and after; at least one is there.
pub(crate) type Change<'a> = (Option<&'a Arc<Resource>>, Option<&'a Arc<Resource>>);

/// Both lists are sorted by kind, mesh and name.
pub(crate) fn between<'a>(old: &'a [Arc<Resource>], new: &'a [Arc<Resource>]) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                old.next();
                new.next();
                continue;
            }
            (Some(a), Some(b)) => a.order().cmp(&b.order()),
        };
        changes.push(match order {
            Ordering::Less => (old.next(), None),
            Ordering::Greater => (None, new.next()),
            Ordering::Equal => (old.next(), new.next()),
        });
    }
}

/// Those of a change that are there.
pub(crate) fn sides<'a>(changes: &'a [Change<'a>]) -> impl Iterator<Item = &'a Arc<Resource>> {
    changes.iter().flat_map(|(old, new)| old.iter().chain(new).copied())
}
