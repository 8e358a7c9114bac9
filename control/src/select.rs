//! How a tag selector matches a tag set, and which of several matching resources wins. One rule for VirtualOutbound,
//! TrafficPermission and MeshGateway. It must not know what the resources mean.

use crate::resource::{Matcher, Meta, Resource, Tags};
use std::cmp::Reverse;

/// How specific a selector is: more tags first, then more of them with an exact value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    pub total: usize,
    pub exact: usize,
}

/// Among matching resources the greatest applies: most specific, then newest created, then first by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'a> {
    pub rank: Rank,
    pub created_ms: u64,
    pub name: Reverse<&'a str>,
}

impl<'a> Precedence<'a> {
    pub fn new(rank: Rank, meta: &'a Meta) -> Self {
        Self { rank, created_ms: meta.created_ms, name: Reverse(&meta.name) }
    }
}

/// Every key is there, with an equal value unless the selector says `*`. A selector without tags matches everything.
pub fn matches(selector: &Matcher, tags: &Tags) -> bool {
    selector.iter().all(|(key, want)| tags.get(key).is_some_and(|have| want == "*" || want == have))
}

pub fn rank(selector: &Matcher) -> Rank {
    Rank { total: selector.len(), exact: selector.values().filter(|value| *value != "*").count() }
}

/// The best rank among the selectors that match; `None` when none does, also when there are no selectors at all
/// (a permission without destinations must not admit everybody).
pub fn selector_rank(selectors: &[Matcher], tags: &Tags) -> Option<Rank> {
    selectors.iter().filter(|selector| matches(selector, tags)).map(rank).max()
}

/// The resource that applies among those that match with the given ranks.
pub fn pick_best<'a>(candidates: impl IntoIterator<Item = (&'a Resource, Rank)>) -> Option<&'a Resource> {
    let ranked = candidates.into_iter().map(|(resource, rank)| (Precedence::new(rank, &resource.meta), resource));
    ranked.max_by_key(|(precedence, _)| *precedence).map(|(_, resource)| resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Spec, Zone};

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn resource(name: &str, created_ms: u64) -> Resource {
        let meta = Meta { mesh: "m".into(), name: name.into(), created_ms, ..Meta::default() };
        Resource { meta, spec: Spec::Zone(Zone::default()) }
    }

    #[test]
    fn a_star_requires_the_tag_to_exist() {
        let selector = tags(&[("kuma.io/service", "*"), ("version", "*")]);
        assert!(!matches(&selector, &tags(&[("kuma.io/service", "web")])));
        assert!(matches(&selector, &tags(&[("kuma.io/service", "web"), ("version", ""), ("x", "y")])));
    }

    #[test]
    fn an_exact_value_must_be_equal_and_globs_mean_nothing() {
        let web = tags(&[("kuma.io/service", "web")]);
        assert!(matches(&web, &web));
        assert!(!matches(&tags(&[("kuma.io/service", "w*")]), &web));
        assert!(matches(&Tags::new(), &web));
    }

    #[test]
    fn more_tags_beat_more_exact_values() {
        let wide = tags(&[("kuma.io/service", "*"), ("version", "*")]);
        let exact = tags(&[("kuma.io/service", "web")]);
        assert!(rank(&wide) > rank(&exact));
        assert!(rank(&exact) > rank(&tags(&[("kuma.io/service", "*")])));
    }

    #[test]
    fn only_matching_selectors_count_for_the_rank() {
        let selectors = [tags(&[("kuma.io/service", "*")]), tags(&[("a", "*"), ("b", "*"), ("c", "*")])];
        let found = selector_rank(&selectors, &tags(&[("kuma.io/service", "web")]));
        assert_eq!(found, Some(Rank { total: 1, exact: 0 }));
        assert_eq!(selector_rank(&selectors, &tags(&[("version", "1")])), None);
        assert_eq!(selector_rank(&[], &tags(&[("version", "1")])), None);
    }

    #[test]
    fn ties_go_to_the_newest_and_then_to_the_first_name() {
        let low = Rank { total: 1, exact: 0 };
        let high = Rank { total: 1, exact: 1 };
        let (a, b, c) = (resource("a", 5), resource("b", 5), resource("c", 4));
        assert_eq!(pick_best([(&c, low), (&b, low), (&a, low)]), Some(&a));
        assert_eq!(pick_best([(&c, high), (&b, low), (&a, low)]), Some(&c));
        assert_eq!(pick_best([(&c, low), (&resource("a", 3), low)]), Some(&c));
        assert_eq!(pick_best([]), None);
    }
}
