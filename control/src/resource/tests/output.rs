//! What goes out comes in again as the same.

use super::super::{Resource, read, to_yaml};
use super::good;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use std::path::Path;

fn all_kinds() -> Vec<Resource> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/intake/all-kinds.yaml");
    let intake = read(&std::fs::read_to_string(file).unwrap(), "all-kinds.yaml");
    let told: Vec<String> = intake.problems.iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|p| p.contains("has no effect here")), "{told:#?}");
    intake.resources
}

#[test]
fn every_kind_comes_back_from_json_and_yaml_as_the_same() {
    let all = all_kinds();
    assert!(all.len() > 13);
    for resource in all {
        for text in [resource.to_json().to_string(), resource.to_yaml()] {
            let mut again = good(&text);
            again.meta.place.clone_from(&resource.meta.place);
            assert_eq!(again, resource, "{text}");
        }
        assert_eq!(good(&resource.to_yaml()).to_yaml(), resource.to_yaml());
    }
}

#[test]
fn json_has_the_shape_of_the_rest_api() {
    let mut zone = good("type: Zone\nname: z\nenabled: true\nlabels: {a: b}\n");
    (zone.meta.created_ms, zone.meta.modified_ms) = (1_709_208_000_000, 1_709_208_000_001);
    let want = serde_json::json!({
        "type": "Zone", "name": "z", "enabled": true, "labels": {"a": "b"},
        "creationTime": "2024-02-29T12:00:00Z", "modificationTime": "2024-02-29T12:00:00.001Z",
    });
    assert_eq!(zone.to_json(), want);
}

#[test]
fn yaml_begins_with_type_mesh_and_name() {
    let secret = good("data: aGk=\nname: s\nmesh: m\ntype: Secret\n");
    assert_eq!(secret.to_yaml(), "type: Secret\nmesh: m\nname: s\ndata: \"aGk=\"\n");
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let text = prop_oneof!["\\PC{0,12}", "[a-z0-9:#.~!&* -]{0,8}", Just("yes".to_owned()), any::<String>()];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        text.clone().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            // `<<` is YAML's merge key.
            proptest::collection::btree_map(text.clone().prop_filter("merge key", |k| k != "<<"), inner, 0..4)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_the_same_after_yaml(value in json()) {
        let text = to_yaml(&value);
        let mut documents = super::super::yaml::parse(&text);
        assert_eq!(documents.len(), 1, "{text}");
        let document = documents.remove(0);
        assert_eq!(document.faults, [], "{text}");
        assert_eq!(document.root.unwrap().to_json(), value, "{text}");
    }
}
