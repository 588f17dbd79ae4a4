//! RocksDB: the log-structured merge tree that other streaming systems keep their state in.

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use super::{Change, Found, MARKER, Setting, Store, View, behind, each_write, marker, step_of};

pub struct Rocks {
    /// As long as the process: snapshots borrow it, and processes end here as by a crash.
    database: &'static DB,
    n_key_bytes: usize,
}

impl Rocks {
    pub fn open(setting: &Setting) -> Rocks {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_max_background_jobs(2);
        options.set_manual_wal_flush(true);
        let mut blocks = BlockBasedOptions::default();
        blocks.set_bloom_filter(10.0, false);
        blocks.set_block_cache(&Cache::new_lru_cache(setting.limit.map_or(1 << 30, |limit| limit / 2)));
        if let Some(limit) = setting.limit {
            // One is written to while another is being flushed.
            options.set_write_buffer_size(limit / 4);
            options.set_db_write_buffer_size(limit / 2);
            blocks.set_cache_index_and_filter_blocks(true);
        }
        options.set_block_based_table_factory(&blocks);
        // The handle of a family is needed for batches of look-ups.
        let families = [("default", options.clone())];
        let database = DB::open_cf_with_opts(&options, setting.directory, families).unwrap();
        let database = Box::leak(Box::new(database));
        Rocks { database, n_key_bytes: setting.n_key_bytes }
    }
}

impl Store for Rocks {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        let family = self.database.cf_handle("default").expect("it always exists");
        // It prepares each call for all of its keys: calls of a thousand are faster than one.
        for (chunk_idx, chunk) in keys.chunks(1000).enumerate() {
            let values = self.database.batched_multi_get_cf(family, chunk.iter().copied(), true);
            for (idx, value) in values.into_iter().enumerate() {
                if let Some(value) = value.unwrap() {
                    found(chunk_idx * 1000 + idx, chunk[idx], &value);
                }
            }
        }
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        // One iterator for all, since making one is what costs most.
        let mut rows = self.database.raw_iterator();
        for (idx, prefix) in prefixes.iter().enumerate() {
            let end = behind(prefix);
            rows.seek(prefix);
            while let Some((key, value)) = rows.item() {
                if key >= end.as_slice() {
                    break;
                }
                found(idx, key, value);
                rows.next();
            }
            rows.status().unwrap();
        }
    }

    fn apply(&mut self, step: u64, change: Change) {
        let mut batch = WriteBatch::default();
        each_write(&change, self.n_key_bytes, |key, value| match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        });
        batch.put(MARKER, marker(step));
        self.database.write_opt(batch, &WriteOptions::default()).unwrap();
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        Box::new(RocksView(self.database.snapshot()))
    }

    fn checkpoint(&mut self, _: u64) {
        self.database.flush_wal(true).unwrap();
    }

    fn found_step(&mut self) -> Option<u64> {
        self.database.get(MARKER).unwrap().map(|marker| step_of(&marker))
    }
}

struct RocksView(SnapshotWithThreadMode<'static, DB>);

impl View for RocksView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.0.get_pinned(key).unwrap() {
            found(&value);
        }
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(MARKER);
        for row in self.0.iterator_opt(IteratorMode::From(&[], Direction::Forward), options) {
            let (key, value) = row.unwrap();
            found(&key, &value);
        }
    }
}
