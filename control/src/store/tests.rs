//! One suite for every backing, then what only a durable one must show: kill, full disk, lock, schema.
use super::*;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

fn dataplane(name: &str) -> Key {
    Key::new("Dataplane", "default", name)
}

async fn on_each_backing(test: impl AsyncFn(Store, Arc<std::sync::atomic::AtomicU64>)) {
    let (clock, now) = Clock::manual(1_000);
    test(Store::memory(clock), now).await;
    let dir = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_000);
    test(Store::open(dir.path(), clock).unwrap(), now).await;
}

#[tokio::test]
async fn put_tells_created_unchanged_and_updated() {
    on_each_backing(async |store, now| {
        let key = dataplane("a");
        assert_eq!(store.put(key.clone(), "1".into(), Expect::Anything).await, Ok(Outcome::Created));
        now.store(2_000, Ordering::Relaxed);
        assert_eq!(store.put(key.clone(), "1".into(), Expect::Anything).await, Ok(Outcome::Unchanged));
        assert_eq!(store.revision(), 1);
        assert_eq!(store.put(key.clone(), "2".into(), Expect::Version(1)).await, Ok(Outcome::Updated));
        let found = store.get(&key).unwrap();
        assert_eq!((found.created_ms, found.modified_ms, found.version), (1_000, 2_000, 2));
        assert_eq!(found.body, "2");
        assert_eq!(store.revision(), 2);
    })
    .await;
}

#[tokio::test]
async fn changed_labels_are_an_update() {
    on_each_backing(async |store, _| {
        let put = |labels: &[(&str, &str)]| Change::Put {
            key: dataplane("a"),
            body: "1".into(),
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            expect: Expect::Anything,
        };
        store.apply(vec![put(&[])]).await.unwrap();
        assert_eq!(store.apply(vec![put(&[("k", "v")])]).await.unwrap().outcomes, [Outcome::Updated]);
        assert_eq!(store.get(&dataplane("a")).unwrap().labels["k"], "v");
    })
    .await;
}

#[tokio::test]
async fn unexpected_version_is_a_conflict_and_changes_nothing() {
    on_each_backing(async |store, _| {
        let key = dataplane("a");
        store.put(key.clone(), "1".into(), Expect::Absent).await.unwrap();
        for expect in [Expect::Absent, Expect::Version(7)] {
            let error = store.put(key.clone(), "2".into(), expect).await.unwrap_err();
            assert_eq!(error, StoreError::Conflict { key: key.clone(), expected: expect, found: Some(1) });
        }
        let delete = Change::Delete { key: key.clone(), expect: Expect::Version(2) };
        assert!(store.apply(vec![delete]).await.is_err());
        assert_eq!(store.get(&key).unwrap().body, "1");
        assert_eq!(store.revision(), 1);
    })
    .await;
}

#[tokio::test]
async fn transaction_is_all_or_nothing() {
    on_each_backing(async |store, _| {
        store.put(dataplane("b"), "1".into(), Expect::Anything).await.unwrap();
        let conflict =
            Change::Put { key: dataplane("b"), body: "2".into(), labels: BTreeMap::new(), expect: Expect::Absent };
        let error = store.apply(vec![Change::put(dataplane("a"), "1"), conflict]).await;
        assert!(matches!(error, Err(StoreError::Conflict { .. })));
        assert_eq!(store.get(&dataplane("a")), None);

        let applied = store
            .apply(vec![
                Change::put(dataplane("a"), "1"),
                Change::put(dataplane("a"), "2"),
                Change::delete(dataplane("b")),
                Change::delete(dataplane("b")),
                Change::Blob { name: "vips".into(), bytes: Some(vec![1]) },
            ])
            .await
            .unwrap();
        use Outcome::{Absent, Created, Deleted, Updated};
        assert_eq!(applied.outcomes, [Created, Updated, Deleted, Absent, Created]);
        assert_eq!(applied.revision, 5);
        assert_eq!(store.get(&dataplane("a")).unwrap().version, 2);
    })
    .await;
}

#[tokio::test]
async fn list_is_sorted_and_filtered() {
    on_each_backing(async |store, _| {
        let keys = [
            Key::new("Mesh", "", "default"),
            Key::new("Dataplane", "two", "a"),
            Key::new("Dataplane", "one", "b"),
            Key::new("Dataplane", "one", "a"),
            Key::new("DataplaneInsight", "one", "a"),
        ];
        store.apply(keys.iter().map(|k| Change::put(k.clone(), "{}")).collect()).await.unwrap();
        let names = |kind: Option<&str>, mesh: Option<&str>| -> Vec<String> {
            store.list(kind, mesh).iter().map(|d| format!("{}/{}/{}", d.key.kind, d.key.mesh, d.key.name)).collect()
        };
        assert_eq!(names(Some("Dataplane"), None), ["Dataplane/one/a", "Dataplane/one/b", "Dataplane/two/a"]);
        assert_eq!(names(Some("Dataplane"), Some("two")), ["Dataplane/two/a"]);
        assert_eq!(names(None, Some("one")).len(), 3);
        assert_eq!(names(Some("Mesh"), Some("")), ["Mesh//default"]);
        assert_eq!(store.contents().documents.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn blobs_are_kept_replaced_and_removed() {
    on_each_backing(async |store, _| {
        assert_eq!(store.set_blob("vips", vec![1, 2]).await, Ok(Outcome::Created));
        assert_eq!(store.set_blob("vips", vec![1, 2]).await, Ok(Outcome::Unchanged));
        assert_eq!(store.blob("vips").as_deref(), Some(&[1u8, 2][..]));
        let gone = store.apply(vec![Change::Blob { name: "vips".into(), bytes: None }]).await.unwrap();
        assert_eq!(gone.outcomes, [Outcome::Deleted]);
        assert_eq!(store.blob("vips"), None);
    })
    .await;
}

#[tokio::test]
async fn a_watcher_wakes_with_the_new_revision() {
    on_each_backing(async |store, _| {
        let mut watch = store.watch();
        store.put(dataplane("a"), "1".into(), Expect::Anything).await.unwrap();
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow_and_update(), 1);
        store.put(dataplane("a"), "1".into(), Expect::Anything).await.unwrap();
        assert!(!watch.has_changed().unwrap());
    })
    .await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    on_each_backing(async |store, _| {
        let error = store.put(dataplane("a"), "x".repeat(BODY_BYTES_MAX + 1), Expect::Anything).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn concurrent_writers_each_get_their_own_answer() {
    on_each_backing(async |store, _| {
        let store = Arc::new(store);
        let tasks: Vec<_> = (0..200)
            .map(|i| {
                let store = store.clone();
                tokio::spawn(async move { store.put(dataplane("one"), format!("{i}"), Expect::Absent).await })
            })
            .collect();
        let mut created = 0;
        for task in tasks {
            created += usize::from(task.await.unwrap() == Ok(Outcome::Created));
        }
        assert_eq!(created, 1);
        assert_eq!(store.revision(), 1);
    })
    .await;
}

#[tokio::test]
async fn durable_store_is_the_same_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Clock::from_fn(|| 5)).unwrap();
    let labels = BTreeMap::from([("k".to_string(), "v".to_string())]);
    let put = Change::Put { key: dataplane("a"), body: "{\"ü\":1}".into(), labels, expect: Expect::Anything };
    store.apply(vec![put, Change::Blob { name: "epoch".into(), bytes: Some(vec![0, 255]) }]).await.unwrap();
    let before = store.contents();
    drop(store);
    let store = Store::open(dir.path(), Clock::from_fn(|| 9)).unwrap();
    assert_eq!(store.contents().documents, before.documents);
    assert_eq!((store.revision(), before.revision), (2, 2));
    assert_eq!(store.blob("epoch").as_deref(), Some(&[0u8, 255][..]));
}

#[tokio::test]
async fn files_are_private_and_a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
    store.put(dataplane("a"), "1".into(), Expect::Anything).await.unwrap();
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    let second = Store::open(&dir.path().join("data"), Clock::system()).err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), Clock::system()).unwrap());
    let file = rusqlite::Connection::open(dir.path().join("weir.db")).unwrap();
    file.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'", []).unwrap();
    drop(file);
    let error = Store::open(dir.path(), Clock::system()).err().unwrap();
    assert!(matches!(error, StoreError::Schema { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn full_store_refuses_loses_nothing_and_recovers_without_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_bounded(dir.path(), Clock::system(), 400 << 10).unwrap();
    let body = "x".repeat(20 << 10);
    let mut kept = Vec::new();
    let error = loop {
        let key = dataplane(&format!("d{}", kept.len()));
        match store.put(key.clone(), body.clone(), Expect::Anything).await {
            Ok(_) => kept.push(key),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(store.list(Some("Dataplane"), None).len(), kept.len());
    store.delete(kept[0].clone()).await.unwrap();
    store.put(dataplane("again"), body, Expect::Anything).await.unwrap();
    drop(store);
    let store = Store::open(dir.path(), Clock::system()).unwrap();
    assert_eq!(store.list(Some("Dataplane"), None).len(), kept.len());
    assert!(store.get(&dataplane("again")).is_some());
}

const CHILD_DIR: &str = "WEIR_STORE_TEST_DIR";

/// Not a test by itself: the process that `acknowledged_writes_survive_kill_9` kills.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = Arc::new(Store::open(Path::new(&dir), Clock::system()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for i in 0.. {
                let name = format!("w{writer}-{i}");
                store.put(dataplane(&name), format!("{{\"n\":{i}}}"), Expect::Absent).await.unwrap();
                println!("\nack {name}");
            }
        });
    }
    tasks.join_next().await;
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for wanted in [1, 20, 150] {
        let data = dir.path().join(wanted.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
            .env(CHILD_DIR, &data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ack = |line: &String| line.strip_prefix("ack ").map(str::to_string);
        let mut acked: Vec<String> = lines.by_ref().filter_map(|l| ack(&l)).take(wanted).collect();
        child.kill().unwrap();
        // Everything it had said before it died counts, but a last torn line.
        acked.extend(lines.filter_map(|l| ack(&l)));
        child.wait().unwrap();
        acked.pop();
        let store = Store::open(&data, Clock::system()).unwrap();
        for name in &acked {
            assert!(store.get(&dataplane(name)).is_some(), "{name} was acknowledged and is gone");
        }
        assert!(store.revision() >= acked.len() as u64);
    }
}

const LIMITED_DIR: &str = "WEIR_STORE_TEST_LIMITED_DIR";

/// Not a test by itself: the process whose files may not grow, in `failed_writes_are_told_and_the_store_goes_on`.
#[tokio::test]
async fn child_that_runs_out_of_room() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Some(dir) = std::env::var_os(LIMITED_DIR) else { return };
    let store = Store::open(Path::new(&dir), Clock::system()).unwrap();
    let body = "x".repeat(20 << 10);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let mut kept = Vec::new();
    for round in 0..3 {
        setrlimit(Resource::RLIMIT_FSIZE, 300 << 10, hard).unwrap();
        // One failure alone may be cured by itself: opening the file anew folds the log into it.
        let mut failures = 0;
        while failures < 3 {
            assert!(kept.len() < 1000, "the limit has no effect");
            let key = dataplane(&format!("r{round}-{}", kept.len()));
            match store.put(key.clone(), body.clone(), Expect::Anything).await {
                Ok(_) => {
                    kept.push(key);
                    failures = 0;
                }
                Err(StoreError::Full { .. } | StoreError::Io { .. }) => failures += 1,
                Err(error) => panic!("{error}"),
            }
        }
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        let key = dataplane(&format!("again-{round}"));
        store.put(key.clone(), body.clone(), Expect::Anything).await.unwrap();
        kept.push(key);
    }
    drop(store);
    let store = Store::open(Path::new(&dir), Clock::system()).unwrap();
    for key in &kept {
        assert!(store.get(key).is_some(), "{key} was acknowledged and is gone");
    }
    println!("\ndone");
}

#[test]
fn failed_writes_are_told_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    // A write beyond the limit raises a signal; ignored, it is an error like that of a full disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["store::tests::child_that_runs_out_of_room", "--exact", "--nocapture"])
        .env(LIMITED_DIR, dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.lines().any(|l| l == "done"), "{out}{err}");
}
