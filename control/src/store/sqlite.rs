//! The durable store: one SQLite file, one thread that writes it. A transaction is acknowledged after its commit is
//! synced (WAL, `synchronous=FULL`), and shows in the mirror only then. It must not know what a document means.

use super::memory::{Mirror, Staged, State};
use super::{Applied, Change, Document, Key, Outcome, StoreError};
use crate::time::Clock;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const FILE: &str = "weir.db";
const LOCK_FILE: &str = "weir.lock";
/// What this program reads and writes; older ones are migrated when opened.
const SCHEMA_VERSION: i64 = 1;
/// Transactions that wait for the writer; a caller beyond waits for its place.
const QUEUE_TRANSACTIONS_MAX: usize = 1024;
/// Transactions that share one commit.
const BATCH_TRANSACTIONS_MAX: usize = 256;
const PAGE_BYTES: u64 = 4096;
/// Another program (a backup, the sqlite3 shell) may hold the file for a moment.
const BUSY_TIMEOUT_S: u64 = 5;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS resources(
  kind TEXT NOT NULL, mesh TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, modified_ms INTEGER NOT NULL, labels TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY(kind, mesh, name));
CREATE TABLE IF NOT EXISTS blobs(name TEXT PRIMARY KEY, bytes BLOB NOT NULL);
";

type Reply = oneshot::Sender<Result<Applied, StoreError>>;

struct Request {
    changes: Vec<Change>,
    reply: Reply,
}

/// The handle; the thread ends, all that was queued written, when it is dropped.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        data_dir: &Path,
        file_bytes_max: u64,
        clock: Clock,
        mirror: Arc<Mirror>,
    ) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        let failed = |e: io::Error| from_io(&path, &e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
        let lock = lock(&data_dir.join(LOCK_FILE)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { path: path.clone() },
            _ => from_io(&path, &e),
        })?;
        // SQLite gives its side files the mode of this one.
        private(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)).map_err(failed)?;
        let mut keeper = Keeper { path, file_bytes_max, connection: None, mirror, clock, _lock: lock };
        keeper.connect()?;
        let path = keeper.path.clone();
        let (queue, requests) = mpsc::channel(QUEUE_TRANSACTIONS_MAX);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.run(requests))
            .map_err(|e| from_io(&path, &e))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) async fn apply(&self, changes: Vec<Change>) -> Result<Applied, StoreError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(Request { changes, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Unlocked when it is dropped: closing the file isn't enough while a process that was forked meanwhile has it too, until
/// it executes its program.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn lock(path: &Path) -> io::Result<Lock> {
    let file = private(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path))?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(Lock(file))
}

fn private(file: io::Result<File>) -> io::Result<File> {
    let file = file?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// What the thread owns.
struct Keeper {
    path: PathBuf,
    file_bytes_max: u64,
    /// Gone after a failure: the next transaction opens the file anew.
    connection: Option<Connection>,
    mirror: Arc<Mirror>,
    clock: Clock,
    _lock: Lock,
}

impl Keeper {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_TRANSACTIONS_MAX
                && let Ok(next) = requests.try_recv()
            {
                batch.push(next);
            }
            self.write(batch);
        }
    }

    /// One commit for the batch. A transaction that can't be staged is refused alone; a commit that fails refuses all.
    fn write(&mut self, batch: Vec<Request>) {
        if let Err(error) = self.connect() {
            return refuse(batch.into_iter().map(|r| r.reply), &error);
        }
        let now_ms = self.clock.now_ms();
        let mut staged = Staged::default();
        let mut waiting: Vec<(Reply, Vec<Outcome>)> = Vec::with_capacity(batch.len());
        {
            let state = self.mirror.read();
            for Request { changes, reply } in batch {
                match staged.add(&state, changes, now_ms) {
                    Ok(outcomes) => waiting.push((reply, outcomes)),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
        if staged.changes > 0
            && let Err(error) = self.commit(&staged)
        {
            // What the failed file holds is unknown: read it again before the next transaction.
            self.connection = None;
            tracing::error!(%error, transactions = waiting.len(), "store write failed");
            return refuse(waiting.into_iter().map(|(reply, _)| reply), &error);
        }
        let revision = self.mirror.publish(staged);
        for (reply, outcomes) in waiting {
            let _ = reply.send(Ok(Applied { outcomes, revision }));
        }
    }

    fn commit(&mut self, staged: &Staged) -> Result<(), StoreError> {
        let revision = self.mirror.read().revision + staged.changes;
        let Some(connection) = &mut self.connection else { return Err(StoreError::Closed) };
        let path = &self.path;
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            write_documents(&transaction, staged)?;
            write_blobs(&transaction, staged)?;
            set_meta(&transaction, "revision", revision as i64)?;
            transaction.commit()
        };
        write().map_err(|e| from_sqlite(path, &e))
    }

    /// Open the file if it isn't, and read it where it differs from the mirror.
    fn connect(&mut self) -> Result<(), StoreError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let connection = open(&self.path, self.file_bytes_max)?;
        let read = || -> rusqlite::Result<()> {
            if self.mirror.read().revision != get_meta(&connection, "revision")?.unwrap_or(0) as u64 {
                self.mirror.replace(load(&connection)?);
            }
            Ok(())
        };
        read().map_err(|e| from_sqlite(&self.path, &e))?;
        self.connection = Some(connection);
        Ok(())
    }
}

fn refuse(replies: impl Iterator<Item = Reply>, error: &StoreError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

fn open(path: &Path, file_bytes_max: u64) -> Result<Connection, StoreError> {
    let failed = |e: rusqlite::Error| from_sqlite(path, &e);
    let mut connection = Connection::open(path).map_err(failed)?;
    let prepare = |c: &Connection| -> rusqlite::Result<()> {
        c.busy_timeout(Duration::from_secs(BUSY_TIMEOUT_S))?;
        c.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        c.pragma_update(None, "journal_mode", "WAL")?;
        c.pragma_update(None, "synchronous", "FULL")?;
        let pages = (file_bytes_max / PAGE_BYTES).clamp(1, u64::from(u32::MAX) - 2) as i64;
        c.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
    };
    prepare(&connection).map_err(failed)?;
    let mut migrate = || -> rusqlite::Result<i64> {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        let found = get_meta(&transaction, "schema_version")?;
        if found.is_none() {
            set_meta(&transaction, "schema_version", SCHEMA_VERSION)?;
        }
        transaction.commit()?;
        Ok(found.unwrap_or(SCHEMA_VERSION))
    };
    let found = migrate().map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Schema { path: path.to_path_buf(), found, known: SCHEMA_VERSION });
    }
    Ok(connection)
}

fn load(connection: &Connection) -> rusqlite::Result<State> {
    let mut state = State::loaded(get_meta(connection, "revision")?.unwrap_or(0) as u64);
    let mut rows =
        connection.prepare("SELECT kind, mesh, name, version, created_ms, modified_ms, labels, body FROM resources")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let key = Key { kind: row.get(0)?, mesh: row.get(1)?, name: row.get(2)? };
        let labels: String = row.get(6)?;
        let document = Document {
            key: key.clone(),
            version: row.get::<_, i64>(3)? as u64,
            created_ms: row.get::<_, i64>(4)? as u64,
            modified_ms: row.get::<_, i64>(5)? as u64,
            labels: serde_json::from_str(&labels)
                .map_err(|e| rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, Box::new(e)))?,
            body: row.get(7)?,
        };
        state.documents.insert(key, Arc::new(document));
    }
    let mut rows = connection.prepare("SELECT name, bytes FROM blobs")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        state.blobs.insert(row.get(0)?, Arc::from(row.get::<_, Vec<u8>>(1)?));
    }
    Ok(state)
}

fn write_documents(transaction: &Transaction<'_>, staged: &Staged) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO resources(kind, mesh, name, version, created_ms, modified_ms, labels, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut delete = transaction.prepare_cached("DELETE FROM resources WHERE kind = ?1 AND mesh = ?2 AND name = ?3")?;
    for (key, document) in &staged.documents {
        match document {
            None => delete.execute(params![key.kind, key.mesh, key.name])?,
            Some(d) => put.execute(params![
                key.kind,
                key.mesh,
                key.name,
                d.version as i64,
                d.created_ms as i64,
                d.modified_ms as i64,
                serde_json::json!(d.labels).to_string(),
                d.body
            ])?,
        };
    }
    Ok(())
}

fn write_blobs(transaction: &Transaction<'_>, staged: &Staged) -> rusqlite::Result<()> {
    for (name, bytes) in &staged.blobs {
        match bytes {
            None => transaction.execute("DELETE FROM blobs WHERE name = ?1", [name])?,
            Some(bytes) => transaction
                .execute("INSERT OR REPLACE INTO blobs(name, bytes) VALUES (?1, ?2)", params![name, &bytes[..]])?,
        };
    }
    Ok(())
}

fn get_meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO meta(name, value) VALUES (?1, ?2)", params![name, value]).map(drop)
}

fn from_sqlite(path: &Path, error: &rusqlite::Error) -> StoreError {
    let (path, why) = (path.to_path_buf(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path, why },
        _ => StoreError::Io { path, why },
    }
}

fn from_io(path: &Path, error: &io::Error) -> StoreError {
    let (path, why) = (path.to_path_buf(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path, why },
        _ => StoreError::Io { path, why },
    }
}
