//! Parts of the list of all resources, which is sorted by kind, mesh and name. It must not know what the kinds mean.

use crate::resource::Resource;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

pub(crate) fn of_kind_and_mesh<'a>(all: &'a [Arc<Resource>], kind: &str, mesh: &str) -> &'a [Arc<Resource>] {
    let place = |r: &Resource| (r.kind(), r.meta.mesh.as_str()).cmp(&(kind, mesh));
    all.get(range(all, place)).unwrap_or_default()
}

/// Where resources of a kind stand, of all meshes.
pub(crate) fn range_of_kind(all: &[Arc<Resource>], kind: &str) -> Range<usize> {
    range(all, |r| r.kind().cmp(kind))
}

fn range(all: &[Arc<Resource>], place: impl Fn(&Resource) -> Ordering) -> Range<usize> {
    all.partition_point(|r| place(r).is_lt())..all.partition_point(|r| place(r).is_le())
}
