//! What differs between two sorted lists by identity: what didn't change is the same allocation in both. It must not know
//! what is in the lists.

use std::cmp::Ordering;
use std::sync::Arc;

/// One of a list before and after; at least one is there.
pub type Change<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// Both lists should be sorted by `order`; where one isn't, more counts as changed. What is one allocation isn't looked at.
pub fn changed<'a, T>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
    order: impl Fn(&'a T, &'a T) -> Ordering,
) -> impl Iterator<Item = Change<'a, T>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some(a), Some(b)) => order(a, b),
            };
            return Some(match order {
                Ordering::Less => (old.next(), None),
                Ordering::Greater => (None, new.next()),
                Ordering::Equal => (old.next(), new.next()),
            });
        }
    })
}
