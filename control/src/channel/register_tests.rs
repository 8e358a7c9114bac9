//! Who is let in, with which resource, and what is left when a proxy goes.

use super::super::insight::Insight;
use super::*;
use crate::core::Defaults;
use crate::store::{Key, Store};
use crate::time::Clock;
use std::time::Duration;
use tonic::Code;

const HOUR: Duration = Duration::from_secs(3600);
const TOKENS: Gate<'static> = Gate { auth: (Auth::Token, Auth::Token), zone: "east" };
const OPEN: Gate<'static> = Gate { auth: (Auth::None, Auth::None), zone: "" };
const EGRESS: &str = "type: ZoneEgress\nname: e\nnetworking: {address: 127.0.0.1, port: 10002}\n";
const WEB: &str = "type: Dataplane\nmesh: default\nname: web\nnetworking: {address: 127.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: web, version: '1'}}]}\n";

async fn core() -> Arc<Core> {
    let clock = Clock::system();
    Core::start(
        Store::memory(clock.clone()),
        clock,
        Defaults { mesh: true, hostname_generators: false, signing_keys: true },
    )
    .await
    .unwrap()
}

fn hello(proxy_type: &str, name: &str, resource: &str) -> proto::Hello {
    let mesh = if proxy_type == "dataplane" { "default" } else { "" };
    proto::Hello {
        formats: vec![FORMAT],
        proxy_type: proxy_type.into(),
        mesh: mesh.into(),
        name: name.into(),
        resource: resource.into(),
        version: "1.2.3".into(),
        ..proto::Hello::default()
    }
}

fn zone_token(core: &Core, zone: &str, scope: &[&str]) -> String {
    let scope = scope.iter().map(|s| (*s).to_owned()).collect();
    let claims = ZoneClaims { zone: zone.into(), scope };
    core.key_ring(TokenScope::Zone).issue(&claims, HOUR, core.clock().now_ms()).unwrap()
}

fn dataplane_token(core: &Core, claims: &DataplaneClaims) -> String {
    let ring = core.key_ring(TokenScope::Dataplane { mesh: "default".into() });
    ring.issue(claims, HOUR, core.clock().now_ms()).unwrap()
}

fn claims(name: &str, tag: Option<(&str, &str)>) -> DataplaneClaims {
    let tags = tag.map(|(k, v)| (k.to_owned(), vec![v.to_owned()])).into_iter().collect();
    DataplaneClaims { name: name.into(), mesh: "default".into(), tags, kind: "dataplane".into() }
}

/// Code and message of the refusal.
async fn refusal(core: &Arc<Core>, auth: Gate<'_>, hello: &proto::Hello) -> (Code, String) {
    let status = register(core, &Presence::default(), auth, hello).await.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn a_proxy_without_a_token_is_told_how_to_get_one() {
    let core = core().await;
    let (code, text) = refusal(&core, TOKENS, &hello("dataplane", "web", WEB)).await;
    assert_eq!((code, text.as_str()), (Code::Unauthenticated, DATAPLANE_TOKEN_REQUIRED));
    let (code, text) = refusal(&core, TOKENS, &hello("egress", "e", EGRESS)).await;
    assert_eq!((code, text.as_str()), (Code::Unauthenticated, ZONE_TOKEN_REQUIRED));
    assert!(core.get(&Key::new("ZoneEgress", "", "e")).is_none());
}

#[tokio::test]
async fn a_dataplane_token_is_for_its_name_and_tags() {
    let core = core().await;
    let with = |claims: &DataplaneClaims| proto::Hello {
        token: dataplane_token(&core, claims),
        ..hello("dataplane", "web", WEB)
    };
    for (claims, told) in [
        (claims("other", None), "proxy name from requestor: web is different than in token: other"),
        (claims("", Some(("region", "eu"))), "dataplane has no tag \"region\" required by the token"),
        (
            claims("", Some(("version", "2"))),
            "dataplane contains tag \"version\" with value \"1\" which is not allowed with this token. Allowed values in token are [2]",
        ),
    ] {
        let (code, text) = refusal(&core, TOKENS, &with(&claims)).await;
        assert_eq!((code, text), (Code::Unauthenticated, format!("Dataplane default/web: {told}")));
    }
    // The zone counts whether or not the Dataplane says it.
    let zoned = with(&claims("web", Some(("kuma.io/zone", "east"))));
    register(&core, &Presence::default(), TOKENS, &zoned).await.unwrap();
    let good = with(&claims("web", Some(("version", "1"))));
    let registered = register(&core, &Presence::default(), TOKENS, &good).await.unwrap();
    assert!(registered.brought && registered.revision > 0);
    assert!(core.get(&Key::new("Dataplane", "default", "web")).is_some());
    let (code, _) = refusal(&core, TOKENS, &proto::Hello { token: "nonsense".into(), ..good }).await;
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn a_zone_token_without_a_zone_is_for_every_zone_and_one_with_a_zone_gives_it() {
    let core = core().await;
    let with = |token: String, resource: &str| proto::Hello { token, ..hello("egress", "e", resource) };
    let in_west = format!("zone: west\n{EGRESS}");
    let any = with(zone_token(&core, "", &["egress"]), &in_west);
    register(&core, &Presence::default(), TOKENS, &any).await.unwrap();
    let east = zone_token(&core, "east", &["egress", "ingress"]);
    let (_, text) = refusal(&core, TOKENS, &with(east.clone(), &in_west)).await;
    assert_eq!(text, "ZoneEgress e: zone from requestor: west is different than in token: east");
    register(&core, &Presence::default(), TOKENS, &with(east, EGRESS)).await.unwrap();
    let Spec::ZoneEgress(egress) = stored(&core, &ProxyKey::egress("e")).unwrap().spec else { panic!() };
    assert_eq!(egress.zone, "east");
    let (_, text) = refusal(&core, TOKENS, &with(zone_token(&core, "", &["ingress"]), EGRESS)).await;
    assert!(text.ends_with("(egress is out of token's scope: [ingress])"), "{text}");
}

#[tokio::test]
async fn a_resource_that_is_not_the_proxys_own_is_refused() {
    let core = core().await;
    let long = format!("# {}\n{WEB}", "x".repeat(RESOURCE_BYTES_MAX));
    for (hello, told) in [
        (hello("dataplane", "other", WEB), "name and mesh of the hello differ"),
        (hello("dataplane", "e", EGRESS), "invalid proxy resource type \"ZoneEgress\", expected Dataplane"),
        (hello("dataplane", "web", &format!("{WEB}---\n{WEB}")), "exactly one document"),
        (hello("dataplane", "web", &long), "at most 524288 are taken"),
        (hello("dataplane", "web", &WEB.replace("port: 80", "port: 0")), "port must be in the range"),
        (hello("cat", "web", WEB), "invalid proxy type \"cat\""),
    ] {
        let (code, text) = refusal(&core, OPEN, &hello).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.contains(told), "{text}");
    }
    let (code, text) = refusal(&core, OPEN, &hello("dataplane", "web", "")).await;
    assert_eq!(code, Code::NotFound);
    assert!(text.starts_with("Dataplane default/web doesn't exist"), "{text}");
}

#[tokio::test]
async fn a_leaving_streams_removal_spares_the_resource_of_its_successor() {
    let (core, presence) = (core().await, Presence::default());
    let key = Key::new("ZoneEgress", "", "e");
    let old = register(&core, &presence, OPEN, &hello("egress", "e", EGRESS)).await.unwrap();
    let new = register(&core, &presence, OPEN, &hello("egress", "e", EGRESS)).await.unwrap();
    presence.remove(&core, &old.key, old.stream).await;
    presence.disconnected(&old.key, old.stream, true);
    assert!(core.get(&key).is_some());
    presence.remove(&core, &new.key, new.stream).await;
    assert!(core.get(&key).is_none());
    // Once more is no error.
    presence.remove(&core, &new.key, new.stream).await;
}

#[tokio::test]
async fn a_lost_zone_proxys_resource_goes_unless_it_came_back() {
    let (core, presence) = (core().await, Presence::default());
    let key = Key::new("ZoneEgress", "", "e");
    let hello = hello("egress", "e", EGRESS);
    let lost = register(&core, &presence, OPEN, &hello).await.unwrap();
    presence.disconnected(&lost.key, lost.stream, true);
    let back = register(&core, &presence, OPEN, &hello).await.unwrap();
    presence.remove_lost(&core, &lost.key, lost.stream).await;
    assert!(core.get(&key).is_some());
    presence.disconnected(&back.key, back.stream, true);
    assert!(core.get(&key).is_some());
    presence.remove_lost(&core, &back.key, back.stream).await;
    assert!(core.get(&key).is_none());
}

#[tokio::test]
async fn a_zone_proxy_is_withheld_only_while_it_is_new() {
    let (core, presence) = (core().await, Presence::default());
    let hello = hello("egress", "e", EGRESS);
    let key = Key::new("ZoneEgress", "", "e");
    let new = register(&core, &presence, OPEN, &hello).await.unwrap();
    assert!(new.withheld && core.withdrawn().contains(&key));
    let again = register(&core, &presence, OPEN, &hello).await.unwrap();
    assert!(!again.withheld && core.withdrawn().is_empty());
    core.withdraw(&key, true);
    core.delete(&key).await.unwrap();
    assert!(core.withdrawn().is_empty());
}

#[tokio::test]
async fn nobody_is_sent_to_a_lost_dataplane_until_it_is_back() {
    let (core, presence) = (core().await, Presence::default());
    let (hello, key) = (hello("dataplane", "web", WEB), Key::new("Dataplane", "default", "web"));
    let lost = register(&core, &presence, OPEN, &hello).await.unwrap();
    presence.disconnected(&lost.key, lost.stream, true);
    presence.withdraw_lost(&core, &lost.key, lost.stream);
    assert!(core.withdrawn().contains(&key) && core.get(&key).is_some());
    let back = register(&core, &presence, OPEN, &hello).await.unwrap();
    assert!(core.withdrawn().is_empty());
    presence.disconnected(&back.key, back.stream, true);
    register(&core, &presence, OPEN, &hello).await.unwrap();
    presence.withdraw_lost(&core, &back.key, back.stream);
    assert!(core.withdrawn().is_empty());
}

#[tokio::test]
async fn an_insight_tells_of_connections_counters_problems_and_certificates() {
    let core = core().await;
    let (proxy, key) = (ProxyKey::dataplane("default", "web"), Key::new("Dataplane", "default", "web"));
    let mut first = Insight::connected(core.clone(), &proxy, 1, "1.2.3");
    first.sent();
    first.acked();
    first.sent();
    first.rejected(&["no".to_owned()]);
    assert_eq!(first.problems(vec!["a".into(), "b".into()]), ["a", "b"]);
    assert_eq!(first.problems(vec!["b".into(), "c".into()]), ["c"]);
    first.certified("ca-1", core.clock().now_ms());
    let shown = core.insight(&key).unwrap();
    let one = &shown["subscriptions"][0];
    assert_eq!(one["status"]["total"]["responsesSent"], "2");
    assert_eq!(one["status"]["total"]["responsesAcknowledged"], "1");
    assert_eq!(one["status"]["total"]["responsesRejected"], "1");
    assert_eq!(one["version"]["kumaDp"]["version"], "1.2.3");
    assert!(one["connectTime"].is_string() && one["status"]["lastUpdateTime"].is_string());
    assert!(one.get("disconnectTime").is_none());
    assert_eq!((&shown["problems"][1], &shown["rejected"][0]), (&"c".into(), &"no".into()));
    assert_eq!(shown["mTLS"]["issuedBackend"], "ca-1");
    let _second = Insight::connected(core.clone(), &proxy, 2, "1.2.4");
    // The older stream's end doesn't speak for the newer one.
    first.disconnected();
    let shown = core.insight(&key).unwrap();
    assert!(shown["subscriptions"][0]["disconnectTime"].is_string());
    assert!(shown["subscriptions"][1].get("disconnectTime").is_none());
    assert!(shown.get("problems").is_none() && shown.get("rejected").is_none());
    for stream in 3..30 {
        Insight::connected(core.clone(), &proxy, stream, "1");
    }
    assert_eq!(core.insight(&key).unwrap()["subscriptions"].as_array().unwrap().len(), 10);
}
