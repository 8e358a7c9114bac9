//! Tables of addresses in the store: JSON, cut into blobs that the store takes. It must not know how addresses are given.

use crate::store::{Change, Store};
use crate::vip::VipTable;

/// Well within a blob's limit; a table of a hundred thousand names has three of these.
const PART_BYTES_MAX: usize = 2 << 20;

fn part(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}/{number}") }
}

/// # Errors
/// What is stored isn't a table.
pub(super) fn load(store: &Store, name: &str) -> Result<VipTable, String> {
    let mut bytes: Vec<u8> = Vec::new();
    for number in 0.. {
        match store.blob(&part(name, number)) {
            Some(more) => bytes.extend_from_slice(&more),
            None => break,
        }
    }
    if bytes.is_empty() {
        return Ok(VipTable::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// What makes `table` the stored one, at once.
pub(super) fn changes(store: &Store, name: &str, table: &VipTable) -> Vec<Change> {
    let bytes = serde_json::to_vec(table).unwrap_or_default();
    let mut changes = Vec::new();
    for (number, piece) in bytes.chunks(PART_BYTES_MAX).enumerate() {
        changes.push(Change::Blob { name: part(name, number), bytes: Some(piece.to_vec()) });
    }
    let left = (changes.len()..).map(|number| part(name, number)).take_while(|part| store.blob(part).is_some());
    let left: Vec<Change> = left.map(|name| Change::Blob { name, bytes: None }).collect();
    changes.extend(left);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;
    use crate::vip::{EntryKind, Key, Ranges, allocate};
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_hundred_thousand_names_are_kept_and_a_smaller_table_leaves_nothing_behind() {
        let store = Store::memory(Clock::system());
        let wanted = |count: usize| -> BTreeSet<Key> {
            (0..count).map(|i| Key::new(EntryKind::Fqdn, format!("v1.service-{i}.namespace.mesh"))).collect()
        };
        let (large, _) = allocate(&VipTable::default(), &wanted(100_000), &Ranges::default(), 0);
        store.apply(changes(&store, "vips/default", &large)).await.unwrap();
        assert!(load(&store, "vips/default").unwrap() == large);
        assert!(store.blob("vips/default/2").is_some());
        let (small, _) = allocate(&VipTable::default(), &wanted(3), &Ranges::default(), 0);
        store.apply(changes(&store, "vips/default", &small)).await.unwrap();
        assert_eq!(load(&store, "vips/default").unwrap(), small);
        assert!(store.blob("vips/default/1").is_none());
        assert_eq!(load(&store, "vips/other").unwrap(), VipTable::default());
    }
}
