//! A sorted map that is kept from publication to publication: a copy shares all chunks with what it was made of, and a
//! change copies the one that it is in. It must not know what it holds.

use std::borrow::Borrow;
use std::sync::Arc;

/// A chunk of more entries becomes two.
const CHUNK_MAX: usize = 128;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// No chunk is empty.
#[derive(Clone, Debug)]
pub(crate) struct Chunks<K, V>(Vec<Chunk<K, V>>);

impl<K, V> Default for Chunks<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, V: Clone> Chunks<K, V> {
    /// `sorted` has no key twice.
    pub(crate) fn of_sorted(sorted: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut chunks: Vec<Vec<(K, V)>> = Vec::new();
        for entry in sorted {
            match chunks.last_mut().filter(|chunk| chunk.len() < CHUNK_MAX / 2) {
                Some(chunk) => chunk.push(entry),
                None => chunks.push(vec![entry]),
            }
        }
        Self(chunks.into_iter().map(Arc::new).collect())
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.0.get(self.place(key))?;
        let at = chunk.binary_search_by(|(held, _)| held.borrow().cmp(key)).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let place = self.place(&key);
        let Some(chunk) = self.0.get_mut(place) else {
            return self.0.push(Arc::new(vec![(key, value)]));
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|(held, _)| held.cmp(&key)) {
            Ok(at) => drop(chunk.get_mut(at).map(|held| held.1 = value)),
            Err(at) => chunk.insert(at, (key, value)),
        }
        if chunk.len() > CHUNK_MAX {
            let second = chunk.split_off(chunk.len() / 2);
            self.0.insert(place + 1, Arc::new(second));
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let Some(chunk) = self.0.get_mut(place) else { return };
        let Ok(at) = chunk.binary_search_by(|(held, _)| held.borrow().cmp(key)) else { return };
        if chunk.len() == 1 {
            self.0.remove(place);
        } else {
            Arc::make_mut(chunk).remove(at);
        }
    }

    /// In the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The chunk that has the key, or would.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_later = |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() > key);
        self.0.partition_point(|chunk| !begins_later(chunk)).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use std::collections::BTreeMap;

    #[test]
    fn any_edits_give_what_they_give_a_btree_map_and_leave_copies_as_they_were() {
        let mut dice = Dice(11);
        let (mut chunks, mut map) = (Chunks::default(), BTreeMap::new());
        for step in 0..20_000 {
            let (key, before) = (dice.below(1500), step % 1000 == 0);
            let copy = before.then(|| (chunks.clone(), map.clone()));
            match dice.below(5) + usize::from(step > 12_000) {
                0..=2 => {
                    chunks.insert(key, step);
                    map.insert(key, step);
                }
                _ => {
                    chunks.remove(&key);
                    map.remove(&key);
                }
            }
            assert_eq!(chunks.get(&key), map.get(&key));
            if let Some((chunks, map)) = copy {
                assert!(chunks.iter().eq(map.iter()));
            }
        }
        assert!(chunks.iter().eq(map.iter()));
        let sorted = Chunks::of_sorted(map.clone());
        assert!(sorted.iter().eq(map.iter()));
        assert!(map.keys().all(|key| sorted.get(key) == map.get(key)));
        map.keys().for_each(|key| chunks.remove(key));
        assert_eq!(chunks.iter().count(), 0);
    }
}
