//! The commands against the real REST API, port chosen by the system.

use super::Done;
use crate::cli::{Cli, Command, arguments};
use crate::failure::Failure;
use clap::Parser as _;
use control::api::{Api, Options};
use control::core::{Core, Defaults};
use control::store::Store;
use control::time::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// An API and a folder with kumactl's configuration that names it.
struct Bench {
    dir: tempfile::TempDir,
    url: String,
    _stop: watch::Sender<bool>,
}

impl Bench {
    async fn start() -> Self {
        let clock = Clock::from_fn(|| 1_800_000_000_000);
        let core = Core::start(Store::memory(clock.clone()), clock, Defaults::default()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (_stop, stop) = watch::channel(false);
        let (_, ready) = watch::channel(true);
        tokio::spawn(Api::new(core, Options::default(), ready).run(listener, None, stop));
        let bench = Self { dir: tempfile::tempdir().unwrap(), url, _stop };
        bench.done(&format!("config control-planes add --name test --address {}", bench.url)).await;
        bench
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Runs `kumactl LINE` with this bench's configuration.
    async fn run(&self, line: &str) -> Done {
        let config = self.dir.path().join("config");
        let line = format!("kumactl --config-file {} {line}", config.display());
        let given = line.split_whitespace().map(Into::into).collect();
        match Cli::try_parse_from(arguments(given).0).unwrap_or_else(|e| panic!("{e}")).command {
            Command::Apply(args) => super::apply(args).await,
            Command::Get(args) => super::get(args).await,
            Command::Delete(args) => super::delete(args).await,
            Command::Inspect(args) => super::inspect(args).await,
            Command::Generate(args) => super::generate(args).await,
            Command::Config(args) => super::configure(args).await,
            other => panic!("{other:?}"),
        }
    }

    async fn done(&self, line: &str) -> String {
        self.run(line).await.unwrap_or_else(|f| panic!("{line}: {}", f.text))
    }

    async fn refused(&self, line: &str) -> Failure {
        match self.run(line).await {
            Ok(out) => panic!("{line}: {out}"),
            Err(failure) => failure,
        }
    }
}

const EGRESS: &str = "type: ZoneEgress\nname: e-1\nnetworking: {address: 10.0.0.1, port: 10002}\n";
const WEB: &str = "type: Dataplane\nmesh: default\nname: web-1\nnetworking:\n  address: 127.0.0.1\n  inbound:\n  \
                   - {port: 8080, tags: {kuma.io/service: web, version: v1}}\n";

#[tokio::test]
async fn what_is_applied_is_created_then_unchanged_then_updated() {
    let bench = Bench::start().await;
    let file = bench.file("all.yaml", &format!("{EGRESS}---\n{WEB}"));
    let line = format!("apply -f {file}");
    assert_eq!(bench.done(&line).await, "ZoneEgress e-1 created\nDataplane default/web-1 created\n");
    assert_eq!(bench.done(&line).await, "ZoneEgress e-1 unchanged\nDataplane default/web-1 unchanged\n");
    bench.file("all.yaml", &format!("{}---\n{WEB}", EGRESS.replace("10.0.0.1", "10.0.0.2")));
    assert_eq!(bench.done(&line).await, "ZoneEgress e-1 updated\nDataplane default/web-1 unchanged\n");
}

#[tokio::test]
async fn a_mesh_with_a_builtin_ca_is_unchanged_the_second_time() {
    let bench = Bench::start().await;
    let mesh = "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca-1\n  backends: [{name: ca-1, type: builtin}]\n\
                routing: {zoneEgress: true}\n";
    let line = format!("apply -f {}", bench.file("mesh.yaml", mesh));
    assert_eq!(bench.done(&line).await, "Mesh default updated\n");
    assert_eq!(bench.done(&line).await, "Mesh default unchanged\n");
    let table = bench.done("get meshes").await;
    assert!(table.starts_with("NAME      mTLS           METRICS   LOGGING   TRACING   LOCALITY   ZONEEGRESS   AGE\n"));
    assert!(table.contains("default   builtin/ca-1   off       off       off       off        on"), "{table}");
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let bench = Bench::start().await;
    let file = bench.file("egress.yaml", EGRESS);
    assert_eq!(bench.done(&format!("apply --dry-run -f {file}")).await, "ZoneEgress e-1 would be created\n");
    assert_eq!(bench.done("get zoneegresses").await, "NAME   AGE\n");
}

#[tokio::test]
async fn one_that_is_refused_does_not_keep_the_others_from_being_applied() {
    let bench = Bench::start().await;
    let stray = WEB.replace("mesh: default", "mesh: nowhere");
    let line = format!("apply -f {} -f {}", bench.file("a.yaml", &stray), bench.file("b.yaml", WEB));
    let failure = bench.refused(&line).await;
    assert_eq!(failure.exit, 1);
    assert_eq!(failure.printed, "Dataplane default/web-1 created\n");
    let text = &failure.text;
    assert!(
        text.starts_with("Dataplane nowhere/web-1: Failed to retrieve Mesh (Not found); apply that mesh"),
        "{text}"
    );
}

#[tokio::test]
async fn resources_are_shown_as_table_yaml_and_json() {
    let bench = Bench::start().await;
    bench.done(&format!("apply -f {}", bench.file("web.yaml", WEB))).await;
    let table = bench.done("get dataplanes").await;
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("default   web-1   kuma.io/service=web version=v1   127.0.0.1   "), "{table}");
    let yaml = bench.done("get dataplane web-1 -o yaml").await;
    assert!(yaml.starts_with("type: Dataplane\nmesh: default\nname: web-1\n"), "{yaml}");
    let again = format!("apply -f {}", bench.file("again.yaml", &yaml));
    assert_eq!(bench.done(&again).await, "Dataplane default/web-1 unchanged\n");
    let list: Value = serde_json::from_str(&bench.done("get dataplanes -o json").await).unwrap();
    assert_eq!((&list["total"], &list["items"][0]["name"], &list["next"]), (&json!(1), &json!("web-1"), &Value::Null));
    assert_eq!(bench.refused("get dataplane web-2").await.text, "No resources found in default mesh");
    assert_eq!(bench.refused("get nonsense").await.exit, 2);
}

#[tokio::test]
async fn a_list_is_followed_from_page_to_page() {
    let bench = Bench::start().await;
    let many: Vec<String> = (0..7).map(|i| EGRESS.replace("e-1", &format!("e-{i}"))).collect();
    bench.done(&format!("apply -f {}", bench.file("many.yaml", &many.join("---\n")))).await;
    assert_eq!(bench.done("get zoneegresses").await.lines().count(), 8);
    assert_eq!(bench.done("get zoneegresses --size 3").await.lines().count(), 4);
    let last = bench.done("get zoneegresses --size 3 --offset 6").await;
    assert!(last.lines().nth(1).unwrap().starts_with("e-6"), "{last}");
}

#[tokio::test]
async fn resources_are_deleted_by_name_and_by_file() {
    let bench = Bench::start().await;
    let file = bench.file("all.yaml", &format!("{EGRESS}---\n{WEB}"));
    bench.done(&format!("apply -f {file}")).await;
    assert_eq!(bench.done("delete zoneegress e-1").await, "deleted ZoneEgress \"e-1\"\n");
    let failure = bench.refused(&format!("delete -f {file}")).await;
    assert_eq!(failure.printed, "deleted Dataplane \"web-1\"\n");
    assert_eq!(failure.text, "there is no ZoneEgress with name \"e-1\"");
    assert_eq!(bench.refused("delete").await.exit, 2);
}

#[tokio::test]
async fn tokens_are_made() {
    let bench = Bench::start().await;
    for line in [
        "generate zone-token --valid-for 720h --scope egress",
        "generate dataplane-token --name web-1 --tag kuma.io/service=web,web2 --proxy-type dataplane",
        "generate user-token --name ci --group a --group b --valid-for 1h",
    ] {
        let token = bench.done(line).await;
        assert_eq!(token.split('.').count(), 3, "{line}: {token}");
    }
    let failure = bench.refused("generate zone-token --scope cp").await;
    assert_eq!(failure.text, "invalid --scope values: [cp] (supported scopes: [ingress egress])");
    let failure = bench.refused("generate zone-token --zone east --valid-for soon").await;
    assert!(failure.text.starts_with("Invalid request ("), "{}", failure.text);
    assert!(failure.text.contains("\n* validFor: is invalid: "), "{}", failure.text);
}

#[tokio::test]
async fn proxies_are_inspected_with_their_state() {
    let bench = Bench::start().await;
    bench.done(&format!("apply -f {}", bench.file("all.yaml", &format!("{EGRESS}---\n{WEB}")))).await;
    let table = bench.done("inspect dataplanes").await;
    assert!(table.lines().nth(1).unwrap().starts_with("default   web-1   kuma.io/service=web version=v1   Offline"));
    assert!(bench.done("inspect dataplanes --tag kuma.io/service=web").await.contains("web-1"));
    assert!(!bench.done("inspect dataplanes --tag kuma.io/service=other").await.contains("web-1"));
    assert!(bench.done("inspect zoneegresses").await.lines().nth(1).unwrap().starts_with("e-1    Offline"));
    let one: Value = serde_json::from_str(&bench.done("inspect zoneegress e-1 -o json").await).unwrap();
    assert_eq!(one["zoneEgress"]["networking"]["port"], 10002);
    assert_eq!(bench.refused("inspect weather").await.exit, 2);
}

#[tokio::test]
async fn control_planes_are_added_switched_and_removed() {
    let bench = Bench::start().await;
    let again = format!("config control-planes add --name test --address {}", bench.url);
    assert_eq!(
        bench.refused(&again).await.text,
        "Control Plane with name \"test\" already exists. Use --overwrite to replace an existing one."
    );
    let other = "config control-planes add --name other --address http://127.0.0.1:1 --skip-check \
                 --auth-type tokens --auth-conf token=abc";
    bench.done(other).await;
    let list = bench.done("config control-planes list").await;
    assert!(list.contains("*        other   http://127.0.0.1:1\n"), "{list}");
    let failure = bench.refused("get meshes").await;
    assert_eq!(failure.exit, 1);
    assert!(failure.text.starts_with("http://127.0.0.1:1: can't connect: "), "{}", failure.text);
    bench.done("config control-planes switch --name test").await;
    assert!(bench.done("get meshes").await.contains("default"));
    bench.done("config control-planes remove --name other").await;
    assert!(!bench.done("config view").await.contains("other"));
    assert_eq!(bench.refused("config control-planes switch --name other").await.exit, 1);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_exit_code_64() {
    let bench = Bench::start().await;
    bench.file("config", "currentContext: gone\n");
    assert_eq!(bench.refused("get meshes").await.exit, 64);
    bench.file("config", "contexts: [");
    let failure = bench.refused("get meshes").await;
    assert_eq!(failure.exit, 64);
    assert!(failure.text.contains("config: line 1"), "{}", failure.text);
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_is_not_added() {
    let bench = Bench::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let line = format!("config control-planes add --name x --address http://{closed}");
    let failure = bench.refused(&line).await;
    assert!(failure.text.contains("nothing was changed (--skip-check adds it unasked)"), "{}", failure.text);
    assert!(!bench.done("config view").await.contains("name: x"));
}
