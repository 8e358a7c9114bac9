//! Acceptance cases of spec/naming.md §13.1 and the properties of allocation.

use super::*;
use proptest::prelude::*;

fn svc(name: &str) -> Key {
    Key::new(EntryKind::Service, name)
}

fn v4(range: &str) -> Ranges {
    Ranges { v4: Some(range.parse().unwrap()), v6: None }
}

fn want(names: &[&str]) -> BTreeSet<Key> {
    names.iter().map(|name| svc(name)).collect()
}

fn table(pairs: &[(&str, &str)]) -> VipTable {
    let entry = |(name, ip): &(&str, &str)| (svc(name), Vip { v4: ip.parse().ok(), v6: ip.parse().ok() });
    VipTable { entries: pairs.iter().map(entry).collect(), ..VipTable::default() }
}

fn show(table: &VipTable) -> String {
    let line = |(key, vip): (&Key, &Vip)| match (vip.v4, vip.v6) {
        (None, None) => format!("{} -", key.name),
        (a, b) => [Some(key.name.clone()), a.map(|a| a.to_string()), b.map(|b| b.to_string())]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "),
    };
    table.entries.iter().map(line).collect::<Vec<_>>().join(", ")
}

const NET: &str = "240.0.0.0/24";

#[test]
fn k4_new_services_take_the_lowest_free_address_and_old_ones_keep_theirs() {
    let before = table(&[("frontend", "240.0.0.0"), ("backend", "240.0.0.1")]);
    let (after, problems) = allocate(&before, &want(&["frontend", "backend", "database"]), &v4(NET), 0);
    assert_eq!(show(&after), "backend 240.0.0.1, database 240.0.0.2, frontend 240.0.0.0");
    assert_eq!(problems, []);
}

#[test]
fn k5_meshes_have_spaces_of_their_own() {
    let (one, _) = allocate(&VipTable::default(), &want(&["a"]), &Ranges::default(), 0);
    let (two, _) = allocate(&VipTable::default(), &want(&["b"]), &Ranges::default(), 0);
    assert_eq!((show(&one), show(&two)), ("a 240.0.0.0 fd00:fd00::".into(), "b 240.0.0.0 fd00:fd00::".into()));
}

#[test]
fn k18_an_exhausted_range_leaves_the_rest_intact_and_shouts() {
    let (one, _) = allocate(&VipTable::default(), &want(&["b"]), &v4("240.0.0.7/32"), 0);
    let (two, problems) = allocate(&one, &want(&["a", "b"]), &v4("240.0.0.7/32"), 0);
    assert_eq!(show(&two), "a -, b 240.0.0.7");
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(text.contains("No addresses left in 240.0.0.7/32: 1 names aren't served (a…)"), "{text}");
}

#[test]
fn k19_an_address_outside_the_range_is_replaced() {
    let (after, problems) = allocate(&table(&[("a", "127.0.0.1")]), &want(&["a"]), &v4("240.0.0.0/4"), 0);
    assert_eq!(show(&after), "a 240.0.0.0");
    assert_eq!(problems[0].to_string(), r#"VIP 127.0.0.1 of "a" is outside 240.0.0.0/4: it gets a new one"#);
    assert_eq!(after.quarantine, BTreeMap::new());
}

#[test]
fn k20_a_reserved_address_is_given_again_and_again() {
    let (one, _) = allocate(&table(&[("foo", "240.0.0.1")]), &want(&["foo"]), &v4(NET), 0);
    let (two, _) = allocate(&one, &want(&["foo"]), &v4(NET), 1);
    assert_eq!((show(&one), one), ("foo 240.0.0.1".into(), two));
}

#[test]
fn k21_a_hundred_thousand_names_are_distinct() {
    let wanted: BTreeSet<Key> = (0..100_000).map(|i| svc(&format!("s{i}"))).collect();
    let (one, problems) = allocate(&VipTable::default(), &wanted, &Ranges::default(), 0);
    let distinct: BTreeSet<_> = one.entries.values().map(|vip| (vip.v4.unwrap(), vip.v6.unwrap())).collect();
    assert_eq!((distinct.len(), problems), (100_000, vec![]));
    let (two, _) = allocate(&one, &wanted, &Ranges::default(), 1);
    assert!(one == two);
}

/// Minutes, if a pass were quadratic.
#[test]
fn a_hundred_thousand_names_come_and_go() {
    const NAMES: usize = 100_000;
    const FRESH: usize = 20_000;
    let wanted = |from: usize| (from..from + NAMES).map(|i| svc(&format!("s{i:06}"))).collect::<BTreeSet<_>>();
    let ranges = v4("240.0.0.0/12");
    let (mut table, _) = allocate(&VipTable::default(), &wanted(0), &ranges, 0);
    for round in 1..=3 {
        let now_ms = round as u64 * QUARANTINE_MS / 2;
        let (next, problems) = allocate(&table, &wanted(round * FRESH), &ranges, now_ms);
        assert_eq!(problems, []);
        let given: BTreeSet<_> = next.entries.values().map(|vip| vip.v4.unwrap()).collect();
        assert_eq!(given.len(), NAMES);
        let stayed = table.entries.iter().filter(|(key, _)| next.entries.contains_key(key));
        assert!(stayed.clone().all(|(key, vip)| next.entries[key] == *vip));
        assert_eq!(stayed.count(), NAMES - FRESH);
        assert!(next.quarantine.values().all(|freed| !given.contains(&freed.vip.v4.unwrap())));
        // What was freed two rounds ago is given again.
        assert_eq!(next.quarantine.len(), FRESH * round.min(2));
        table = next;
    }
    assert_eq!(table.entries[&svc("s140000")].v4, "240.0.0.0".parse().ok(), "the first to rest, the first to return");
}

#[test]
fn an_exhausted_range_names_whom_it_has_no_address_for_and_hurts_nobody_else() {
    let some: BTreeSet<Key> = (0..200).map(|i| svc(&format!("old{i:03}"))).collect();
    let (before, _) = allocate(&VipTable::default(), &some, &v4(NET), 0);
    let mut wanted: BTreeSet<Key> = some.iter().skip(10).cloned().collect();
    wanted.extend((0..100_000).map(|i| svc(&format!("new{i:05}"))));
    let (after, problems) = allocate(&before, &wanted, &v4(NET), 1);
    assert!(before.entries.iter().skip(10).all(|(key, vip)| after.entries[key] == *vip));
    assert_eq!(after.entries.values().filter(|vip| !vip.is_empty()).count(), 246);
    let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(
        text,
        "failed to allocate new VIPs: No addresses left in 240.0.0.0/24: 99944 names aren't served (new00056, new00057, \
         new00058…), 10 addresses rest in quarantine; enlarge dnsServer.CIDR"
    );
    // Whoever rested is over by then: as many more are served, those first by name.
    let (later, problems) = allocate(&after, &wanted, &v4(NET), 1 + QUARANTINE_MS);
    assert_eq!(later.entries.values().filter(|vip| !vip.is_empty()).count(), 256);
    assert!(problems[0].to_string().contains("99934 names aren't served (new00066, "), "{}", problems[0]);
}

#[test]
fn n1_a_freed_address_rests_before_another_name_gets_it() {
    let before = table(&[("a", "240.0.0.0")]);
    let (one, _) = allocate(&before, &want(&["b"]), &v4(NET), 1_000);
    assert_eq!(show(&one), "b 240.0.0.1");
    assert_eq!(one.next_release_ms(), Some(1_000 + QUARANTINE_MS));
    let (two, _) = allocate(&one, &want(&["b", "c"]), &v4(NET), 1_000 + QUARANTINE_MS - 1);
    assert_eq!(show(&two), "b 240.0.0.1, c 240.0.0.2");
    let (three, _) = allocate(&two, &want(&["b", "c", "d"]), &v4(NET), 1_000 + QUARANTINE_MS);
    assert_eq!(show(&three), "b 240.0.0.1, c 240.0.0.2, d 240.0.0.0");
    assert!(three.quarantine.is_empty());
}

#[test]
fn a_name_that_returns_in_time_gets_its_address_back() {
    let before = table(&[("a", "240.0.0.0"), ("b", "240.0.0.1")]);
    let (one, _) = allocate(&before, &want(&["a"]), &v4(NET), 0);
    let (two, _) = allocate(&one, &want(&["a", "aa", "b"]), &v4(NET), 5);
    assert_eq!(show(&two), "a 240.0.0.0, aa 240.0.0.2, b 240.0.0.1");
    assert!(two.quarantine.is_empty());
}

#[test]
fn quarantined_addresses_count_as_used_even_when_the_range_is_exhausted() {
    let (one, problems) = allocate(&table(&[("a", "240.0.0.0")]), &want(&["b"]), &v4("240.0.0.0/32"), 0);
    assert_eq!(show(&one), "b -");
    assert!(problems[0].to_string().contains("1 addresses rest in quarantine"));
    let (two, _) = allocate(&one, &want(&["b"]), &v4("240.0.0.0/32"), QUARANTINE_MS);
    assert_eq!(show(&two), "b 240.0.0.0");
}

#[test]
fn a_clock_set_back_does_not_prolong_quarantine() {
    let (one, _) = allocate(&table(&[("a", "240.0.0.0")]), &want(&[]), &v4(NET), 9_000_000);
    let (two, _) = allocate(&one, &want(&[]), &v4(NET), 10);
    assert_eq!(two.next_release_ms(), Some(10 + QUARANTINE_MS));
}

#[test]
fn duplicates_of_a_damaged_table_are_healed() {
    let before = table(&[("b", "240.0.0.5"), ("a", "240.0.0.5")]);
    let (after, problems) = allocate(&before, &want(&["a", "b"]), &v4(NET), 0);
    assert_eq!(show(&after), "a 240.0.0.5, b 240.0.0.0");
    assert_eq!(problems[0].to_string(), r#"VIP 240.0.0.5 of "b" belongs to "a": it gets a new one"#);
}

#[test]
fn a_host_written_as_address_has_that_address() {
    let wanted = [Key::new(EntryKind::Host, "240.0.0.0"), Key::new(EntryKind::Host, "::1"), svc("s")].into();
    let (after, _) = allocate(&VipTable::default(), &wanted, &v4(NET), 0);
    assert_eq!(show(&after), "s 240.0.0.0, 240.0.0.0 240.0.0.0, ::1 ::1");
    let (gone, _) = allocate(&after, &want(&["s"]), &v4(NET), 0);
    assert!(gone.quarantine.is_empty());
}

#[test]
fn kinds_are_served_in_order_and_are_different_keys() {
    let wanted = [Key::new(EntryKind::Fqdn, "a"), Key::new(EntryKind::Host, "a"), svc("z")].into();
    let (after, _) = allocate(&VipTable::default(), &wanted, &v4(NET), 0);
    assert_eq!(show(&after), "z 240.0.0.0, a 240.0.0.1, a 240.0.0.2");
}

#[test]
fn a_second_range_is_added_without_moving_the_first() {
    let (one, _) = allocate(&table(&[("a", "240.0.0.9")]), &want(&["a"]), &Ranges::default(), 0);
    assert_eq!(show(&one), "a 240.0.0.9 fd00:fd00::");
    let (two, _) = allocate(&one, &want(&["a"]), &v4(NET), 0);
    assert_eq!(show(&two), "a 240.0.0.9");
}

#[test]
fn the_table_survives_json() {
    let (one, _) = allocate(&table(&[("gone", "240.0.0.0")]), &want(&["a", "x:y"]), &Ranges::default(), 7);
    let json = serde_json::to_string(&one).unwrap();
    assert_eq!(
        json,
        r#"{"entries":{"0:a":{"v4":"240.0.0.1","v6":"fd00:fd00::"},"0:x:y":{"v4":"240.0.0.2","v6":"fd00:fd00::1"}},"#
            .to_string()
            + r#""quarantine":{"0:gone":{"v4":"240.0.0.0","freed_at_ms":7}}}"#
    );
    assert_eq!(serde_json::from_str::<VipTable>(&json).unwrap(), one);
    assert!(serde_json::from_str::<VipTable>(r#"{"entries":{"9:a":{}}}"#).is_err());
}

#[test]
fn ranges_are_parsed_and_cut_to_the_network() {
    let range: Cidr<Ipv4Addr> = "240.1.2.3/24".parse().unwrap();
    assert_eq!(range.to_string(), "240.1.2.0/24");
    assert!(range.contains(Ipv4Addr::new(240, 1, 2, 255)) && !range.contains(Ipv4Addr::new(240, 1, 3, 0)));
    for bad in ["", "240.0.0.0", "240.0.0.0/33", "240.0.0/4", "a/4", "::/4"] {
        assert!(bad.parse::<Cidr<Ipv4Addr>>().unwrap_err().starts_with("CIDR must be valid"), "{bad}");
    }
    let whole: Cidr<Ipv6Addr> = "::/0".parse().unwrap();
    assert!(whole.contains(Ipv6Addr::from_bits(u128::MAX)));
}

fn names() -> impl Strategy<Value = BTreeSet<Key>> {
    prop::collection::btree_set((0u8..40).prop_map(|i| svc(&format!("s{i:02}"))), 0..24)
}

proptest! {
    #[test]
    fn allocation_keeps_its_promises(steps in prop::collection::vec((names(), 0u64..400_000), 1..12), bits in 27u8..=31) {
        let ranges = Ranges { v4: Cidr::new(Ipv4Addr::new(240, 0, 0, 0), bits), v6: Ranges::default().v6 };
        let mut now = 0;
        let mut table = VipTable::default();
        // When an address last belonged to whom.
        let mut owners: BTreeMap<Ipv4Addr, (Key, u64)> = BTreeMap::new();
        for (wanted, pause) in steps {
            now += pause;
            let (next, problems) = allocate(&table, &wanted, &ranges, now);
            prop_assert!(next.entries.keys().eq(wanted.iter()));
            let given: Vec<_> = next.entries.values().filter_map(|vip| vip.v4).collect();
            let distinct: BTreeSet<_> = given.iter().copied().collect();
            prop_assert_eq!(given.len(), distinct.len());
            let all_named = given.len() == wanted.len();
            prop_assert_eq!(all_named, problems.is_empty());
            for (key, vip) in &next.entries {
                let before = table.entries.get(key).and_then(|vip| vip.v4);
                prop_assert!(before.is_none() || before == vip.v4, "{key} moved");
                let Some(ip) = vip.v4 else { continue };
                if let Some((owner, freed)) = owners.get(&ip) {
                    prop_assert!(owner == key || now - freed >= QUARANTINE_MS, "{ip} of {owner} given to {key}");
                }
                let resting = next.quarantine.values().filter_map(|freed| freed.vip.v4);
                let taken: BTreeSet<_> = distinct.iter().copied().chain(resting).collect();
                let returned = owners.get(&ip).is_some_and(|(owner, _)| owner == key);
                if before.is_none() && !returned {
                    let lower = (0xF000_0000..ip.to_bits()).map(Ipv4Addr::from_bits);
                    prop_assert!(lower.into_iter().all(|ip| taken.contains(&ip)), "{ip} isn't the lowest free");
                }
            }
            for (key, vip) in &next.entries {
                if let Some(ip) = vip.v4 {
                    owners.insert(ip, (key.clone(), now));
                }
            }
            // The moment of freeing is that of the pass that noticed.
            for (key, vip) in &table.entries {
                if let (Some(ip), false) = (vip.v4, wanted.contains(key)) {
                    owners.insert(ip, (key.clone(), now));
                }
            }
            prop_assert_eq!(&allocate(&next, &wanted, &ranges, now).0, &next);
            table = next;
        }
    }

    #[test]
    fn order_of_the_input_does_not_matter(mut list in prop::collection::vec("[a-z]{1,3}", 0..30)) {
        let forward: BTreeSet<Key> = list.iter().map(|name| svc(name)).collect();
        list.reverse();
        let backward = list.iter().map(|name| svc(name)).collect();
        let before = table(&[("a", "240.0.0.3"), ("zz", "240.0.0.1")]);
        prop_assert_eq!(allocate(&before, &forward, &v4(NET), 3), allocate(&before, &backward, &v4(NET), 3));
    }
}
