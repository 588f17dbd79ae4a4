//! Tidemill's own: an arrangement, used as `engine/src/operators/` uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_storage::{Arrangement, Budget, Checkpoint, CheckpointStore, Root, RunBuilder, Snapshot};
use tokio::runtime::{Builder, Runtime};

use super::{Change, Found, Setting, Store, View};

pub struct Ours {
    runtime: Runtime,
    checkpoints: CheckpointStore,
    arrangement: Arrangement,
    n_key_bytes: usize,
    found_step: Option<u64>,
    _budget: Option<Arc<Budget>>,
}

impl Ours {
    pub fn open(setting: &Setting) -> Ours {
        let runtime = Builder::new_current_thread().build().unwrap();
        let root = Root::local(setting.directory).unwrap();
        let (checkpoints, found) = runtime.block_on(CheckpointStore::open(root.child("state"))).unwrap();
        let found_step = found.as_ref().map(|found| found.meta.as_u64().unwrap());
        let runs = found.map(|mut found| found.runs.remove("rows").unwrap()).unwrap_or_default();
        let mut arrangement = Arrangement::restore(setting.layout.clone(), runs);
        let budget = setting.limit.map(|limit| Budget::new(root.scratch().unwrap(), limit));
        if let Some(budget) = &budget {
            arrangement.keep_within(budget);
        }
        let n_key_bytes = setting.n_key_bytes;
        Ours { runtime, checkpoints, arrangement, n_key_bytes, found_step, _budget: budget }
    }
}

impl Store for Ours {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        let snapshot = self.arrangement.snapshot();
        snapshot.lookup(keys.iter().copied(), |key_idx, row, weight| {
            assert_eq!(weight, 1, "a key has one row");
            let (key, value) = row.split_at(self.n_key_bytes);
            found(key_idx, key, value);
        });
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        self.lookup(prefixes, found);
    }

    fn apply(&mut self, _: u64, change: Change) {
        match change {
            // As the aggregate's `push_change` does it.
            Change::Replaced(rows) => {
                let mut run = RunBuilder::with_capacity(2 * rows.len(), 0);
                for row in rows {
                    match row.old {
                        None => run.push(row.new, 1),
                        Some(old) => match old.cmp(row.new) {
                            std::cmp::Ordering::Less => {
                                run.push(old, -1);
                                run.push(row.new, 1);
                            }
                            std::cmp::Ordering::Greater => {
                                run.push(row.new, 1);
                                run.push(old, -1);
                            }
                            std::cmp::Ordering::Equal => (),
                        },
                    }
                }
                self.arrangement.append(run.finish());
            }
            Change::Delta(delta) => self.arrangement.add(&delta.rows, &delta.weights),
        }
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        Box::new(OurView { snapshot: self.arrangement.snapshot(), n_key_bytes: self.n_key_bytes })
    }

    fn checkpoint(&mut self, step: u64) {
        let runs = self.arrangement.snapshot().runs().to_vec();
        let runs = BTreeMap::from([("rows".to_owned(), runs)]);
        let checkpoint = Checkpoint { meta: step.into(), runs, ..Checkpoint::default() };
        self.runtime.block_on(self.checkpoints.write(&checkpoint)).unwrap();
        self.arrangement.relieve();
    }

    fn found_step(&mut self) -> Option<u64> {
        self.found_step
    }

    fn held(&self) -> Option<usize> {
        Some(self.arrangement.current().heap_size())
    }
}

struct OurView {
    snapshot: Snapshot,
    n_key_bytes: usize,
}

impl View for OurView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        self.snapshot.lookup([key], |_, row, _| found(&row[self.n_key_bytes..]));
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        for (row, weight) in self.snapshot.cursor() {
            assert_eq!(weight, 1, "a key has one row");
            let (key, value) = row.split_at(self.n_key_bytes);
            found(key, value);
        }
    }
}
