//! SlateDB: a log-structured merge tree in an object store, here a directory whose files are synced.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use slatedb::config::{CompactorOptions, ScanOptions, Settings};
use slatedb::db_cache::foyer::{FoyerCache, FoyerCacheOptions};
use slatedb::object_store::local::LocalFileSystem;
use slatedb::{Db, DbSnapshot, WriteBatch};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{Change, Found, MARKER, Setting, Store, View, behind, each_write, marker, step_of};

/// How many look-ups wait for the object store at once.
const N_AT_ONCE: usize = 32;

pub struct Slate {
    runtime: Runtime,
    database: Db,
    n_key_bytes: usize,
}

impl Slate {
    pub fn open(setting: &Setting) -> Slate {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let files = LocalFileSystem::new_with_prefix(setting.directory).unwrap().with_fsync(true);
        // The log goes out once a second, as Tidemill's checkpoints do, and where it is told to.
        let mut settings = Settings { flush_interval: Some(Duration::from_secs(1)), ..Settings::default() };
        if let Some(limit) = setting.limit {
            settings.l0_sst_size_bytes = limit / 8;
            settings.max_unflushed_bytes = limit / 2;
            settings.flush_interval = Some(Duration::from_millis(100));
        }
        // It looks each five seconds by itself, by when there would be more small files than it allows.
        settings.compactor_options = Some(CompactorOptions {
            poll_interval: Duration::from_millis(200),
            ..CompactorOptions::default()
        });
        let capacity = setting.limit.map_or(1 << 30, |limit| limit / 2) as u64;
        let cache = FoyerCache::new_with_opts(FoyerCacheOptions { max_capacity: capacity, shards: 2 });
        let builder =
            Db::builder("rows", Arc::new(files)).with_settings(settings).with_db_cache(Arc::new(cache), 0);
        let database = runtime.block_on(builder.build()).unwrap();
        Slate { runtime, database, n_key_bytes: setting.n_key_bytes }
    }
}

fn scan_options() -> ScanOptions {
    ScanOptions { read_ahead_bytes: 256 << 10, max_fetch_tasks: 2, ..ScanOptions::default() }
}

impl Store for Slate {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        let database = &self.database;
        let get = |(idx, key): (usize, &[u8])| {
            let key = key.to_vec();
            async move { (idx, database.get(key).await.unwrap()) }
        };
        self.runtime.block_on(async {
            let mut values = stream::iter(keys.iter().copied().enumerate()).map(get).buffered(N_AT_ONCE);
            while let Some((idx, value)) = values.next().await {
                if let Some(value) = value {
                    found(idx, keys[idx], &value);
                }
            }
        });
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        let database = &self.database;
        let scan = |(idx, prefix): (usize, &[u8])| {
            let range = prefix.to_vec()..behind(prefix);
            let options = ScanOptions { cache_blocks: true, ..ScanOptions::default() };
            async move {
                let mut rows = database.scan_with_options(range, &options).await.unwrap();
                let mut all = Vec::new();
                while let Some(row) = rows.next().await.unwrap() {
                    all.push(row);
                }
                (idx, all)
            }
        };
        self.runtime.block_on(async {
            let mut groups = stream::iter(prefixes.iter().copied().enumerate()).map(scan).buffered(N_AT_ONCE);
            while let Some((idx, rows)) = groups.next().await {
                rows.iter().for_each(|row| found(idx, &row.key, &row.value));
            }
        });
    }

    fn apply(&mut self, step: u64, change: Change) {
        let mut batch = WriteBatch::new();
        each_write(&change, self.n_key_bytes, |key, value| match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        });
        batch.put(MARKER, marker(step));
        self.runtime.block_on(self.database.write(batch)).unwrap();
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        let runtime = self.runtime.handle().clone();
        Box::new(SlateView { runtime, snapshot: self.database.snapshot().unwrap() })
    }

    fn checkpoint(&mut self, _: u64) {
        self.runtime.block_on(self.database.flush()).unwrap();
    }

    fn found_step(&mut self) -> Option<u64> {
        self.runtime.block_on(self.database.get(MARKER)).unwrap().map(|marker| step_of(&marker))
    }
}

struct SlateView {
    runtime: Handle,
    snapshot: Arc<DbSnapshot>,
}

impl View for SlateView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.runtime.block_on(self.snapshot.get(key)).unwrap() {
            found(&value);
        }
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        self.runtime.block_on(async {
            let options = scan_options();
            let mut rows = self.snapshot.scan_with_options(..MARKER.to_vec(), &options).await.unwrap();
            while let Some(row) = rows.next().await.unwrap() {
                found(&row.key, &row.value);
            }
        });
    }
}
