//! What differs between two sorted lists of resources, by identity: a resource that didn't change is the same
//! allocation in both. It must not know what a change means.

use crate::resource::Resource;
use std::sync::Arc;

/// A resource before and after; at least one is there.
pub(crate) type Change<'a> = snapshot::Change<'a, Resource>;

/// Both lists are sorted by kind, mesh and name.
pub(crate) fn between<'a>(old: &'a [Arc<Resource>], new: &'a [Arc<Resource>]) -> Vec<Change<'a>> {
    snapshot::changed(old, new, |a, b| a.order().cmp(&b.order())).collect()
}

/// Those of a change that are there.
pub(crate) fn sides<'a>(changes: &'a [Change<'a>]) -> impl Iterator<Item = &'a Arc<Resource>> {
    changes.iter().flat_map(|(old, new)| old.iter().chain(new).copied())
}
