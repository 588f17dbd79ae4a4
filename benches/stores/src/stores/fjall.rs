//! fjall: a log-structured merge tree in Rust, with a journal that all batches go through.

use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::{Change, Found, MARKER, Setting, Store, View, behind, each_write, marker, step_of};

pub struct Fjall {
    database: Database,
    rows: Keyspace,
    n_key_bytes: usize,
}

impl Fjall {
    pub fn open(setting: &Setting) -> Fjall {
        let mut builder = Database::builder(setting.directory)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true);
        builder = builder.cache_size(setting.limit.map_or(1 << 30, |limit| limit as u64 / 2));
        let database = builder.open().unwrap();
        let options = || {
            let options = KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::disabled())
                .index_block_compression_policy(CompressionPolicy::disabled())
                .data_block_size_policy(BlockSizePolicy::all(4096))
                .manual_journal_persist(true);
            // One is written to while another is being flushed.
            match setting.limit {
                Some(limit) => options.max_memtable_size(limit as u64 / 4),
                None => options,
            }
        };
        let rows = database.keyspace("rows", options).unwrap();
        Fjall { database, rows, n_key_bytes: setting.n_key_bytes }
    }
}

impl Store for Fjall {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        for (idx, key) in keys.iter().enumerate() {
            if let Some(value) = self.rows.get(key).unwrap() {
                found(idx, key, &value);
            }
        }
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        for (idx, prefix) in prefixes.iter().enumerate() {
            for row in self.rows.range(prefix.to_vec()..behind(prefix)) {
                let (key, value) = row.into_inner().unwrap();
                found(idx, &key, &value);
            }
        }
    }

    fn apply(&mut self, step: u64, change: Change) {
        let mut batch = self.database.batch();
        each_write(&change, self.n_key_bytes, |key, value| match value {
            Some(value) => batch.insert(&self.rows, key, value),
            None => batch.remove(&self.rows, key),
        });
        batch.insert(&self.rows, MARKER, marker(step));
        batch.commit().unwrap();
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        Box::new(FjallView { snapshot: self.database.snapshot(), rows: self.rows.clone() })
    }

    fn checkpoint(&mut self, _: u64) {
        self.database.persist(PersistMode::SyncData).unwrap();
    }

    fn found_step(&mut self) -> Option<u64> {
        self.rows.get(MARKER).unwrap().map(|marker| step_of(&marker))
    }
}

struct FjallView {
    snapshot: Snapshot,
    rows: Keyspace,
}

impl View for FjallView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.snapshot.get(&self.rows, key).unwrap() {
            found(&value);
        }
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        for row in self.snapshot.range(&self.rows, ..MARKER) {
            let (key, value) = row.into_inner().unwrap();
            found(&key, &value);
        }
    }
}
