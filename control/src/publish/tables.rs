//! Tables of addresses in the store: JSON, cut into blobs that the store takes. It must not know how addresses are given.

use crate::store::{Change, Store};

/// Well within a blob's limit; a table of a hundred thousand names has three of these.
const PART_BYTES_MAX: usize = 2 << 20;

fn part(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}/{number}") }
}

pub(super) fn load(store: &Store, name: &str) -> Option<Vec<u8>> {
    let mut bytes = store.blob(name)?.to_vec();
    for number in 1.. {
        match store.blob(&part(name, number)) {
            Some(more) => bytes.extend_from_slice(&more),
            None => break,
        }
    }
    Some(bytes)
}

/// What makes `bytes` the stored table, at once.
pub(super) fn changes(store: &Store, name: &str, bytes: &[u8]) -> Vec<Change> {
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
    use crate::vip::{EntryKind, Key, Ranges, VipTable, allocate};
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_hundred_thousand_names_are_kept_and_a_smaller_table_leaves_nothing_behind() {
        let store = Store::memory(Clock::system());
        let table = |count: usize| {
            let wanted: BTreeSet<Key> =
                (0..count).map(|i| Key::new(EntryKind::Fqdn, format!("v1.service-{i}.namespace.mesh"))).collect();
            serde_json::to_vec(&allocate(&VipTable::default(), &wanted, &Ranges::default(), 0).0).unwrap()
        };
        let (large, small) = (table(100_000), table(3));
        store.apply(changes(&store, "vips/default", &large)).await.unwrap();
        assert!(load(&store, "vips/default").unwrap() == large);
        assert!(store.blob("vips/default/2").is_some());
        store.apply(changes(&store, "vips/default", &small)).await.unwrap();
        assert_eq!(load(&store, "vips/default").unwrap(), small);
        assert!(store.blob("vips/default/1").is_none());
        assert_eq!(load(&store, "vips/other"), None);
    }
}
