//! Which dataplanes a mesh admits: `constraints.dataplaneProxy`. Judged when a dataplane is written, not later.

use super::{Refusal, Violation};
use crate::resource::{Dataplane, Tags};
use serde_json::Value;

/// Every tag set of the dataplane has to meet one requirement, if there are any, and no restriction.
pub(super) fn check(mesh: &str, constraints: &Value, dataplane: &Dataplane) -> Result<(), Refusal> {
    let sets = |what: &str| -> Vec<&Value> {
        let list = constraints.pointer(&format!("/dataplaneProxy/{what}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|one| one.get("tags")).collect()
    };
    let (requirements, restrictions) = (sets("requirements"), sets("restrictions"));
    let networking = &dataplane.networking;
    let inbounds = networking.inbound.iter().enumerate();
    let inbounds = inbounds.map(|(i, inbound)| (format!("networking.inbound[{i}].tags"), &inbound.tags));
    let gateway = networking.gateway.iter().map(|g| ("networking.gateway.tags".to_string(), &g.tags));
    let mut violations = Vec::new();
    for (field, tags) in inbounds.chain(gateway) {
        let who = format!("dataplane cannot be a member of mesh \"{mesh}\" because its tags \"{}\"", shown(tags));
        if !requirements.is_empty() && !requirements.iter().any(|wanted| matches(wanted, tags)) {
            let why = format!("{who} does not fulfill any requirements defined on the Mesh");
            violations.push(Violation::new(&field, why));
        }
        if let Some(Value::Object(found)) = restrictions.iter().find(|banned| matches(banned, tags)) {
            let found: Vec<String> =
                found.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            violations.push(Violation::new(&field, format!("{who} matches restricted tags \"{}\"", found.join(" "))));
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(Refusal::Invalid(violations)) }
}

/// `*` is any value.
fn matches(wanted: &Value, tags: &Tags) -> bool {
    let Value::Object(wanted) = wanted else { return false };
    let met = |(tag, value): (&String, &Value)| {
        tags.get(tag).is_some_and(|found| value.as_str().is_some_and(|v| v == "*" || v == found))
    };
    !wanted.is_empty() && wanted.iter().all(met)
}

fn shown(tags: &Tags) -> String {
    tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Inbound, Networking};
    use serde_json::json;

    fn why(constraints: Value, sets: &[&[(&str, &str)]]) -> String {
        let tags = |set: &[(&str, &str)]| set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let inbound = sets.iter().map(|set| Inbound { tags: tags(set), ..Inbound::default() }).collect();
        let networking = Networking { inbound, ..Networking::default() };
        let dataplane = Dataplane { networking, ..Dataplane::default() };
        match check("m", &json!({"dataplaneProxy": constraints}), &dataplane) {
            Ok(()) => String::new(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn every_tag_set_has_to_meet_one_requirement() {
        let constraints = json!({"requirements": [{"tags": {"team": "*"}}, {"tags": {"env": "dev"}}]});
        assert_eq!(why(constraints.clone(), &[&[("team", "a")], &[("env", "dev")]]), "");
        assert_eq!(
            why(constraints, &[&[("team", "a")], &[("env", "prod"), ("kuma.io/service", "w")]]),
            "networking.inbound[1].tags: dataplane cannot be a member of mesh \"m\" because its tags \
             \"env=prod kuma.io/service=w\" does not fulfill any requirements defined on the Mesh"
        );
        assert_eq!(why(Value::Null, &[&[("team", "a")]]), "");
    }

    #[test]
    fn no_tag_set_may_meet_a_restriction() {
        let constraints = json!({"restrictions": [{"tags": {"env": "legacy"}}]});
        assert_eq!(why(constraints.clone(), &[&[("env", "new")]]), "");
        assert!(why(constraints, &[&[("env", "legacy")]]).ends_with("matches restricted tags \"env=legacy\""));
    }
}
