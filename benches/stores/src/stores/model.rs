//! What all stores must say: a map in memory, of which nothing is durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Change, Found, Setting, Store, View, each_write};

type Rows = BTreeMap<Box<[u8]>, Box<[u8]>>;

pub struct Model {
    rows: Arc<Rows>,
    n_key_bytes: usize,
}

impl Model {
    pub fn open(setting: &Setting) -> Model {
        Model { rows: Arc::default(), n_key_bytes: setting.n_key_bytes }
    }
}

impl Store for Model {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        for (idx, key) in keys.iter().enumerate() {
            if let Some(value) = self.rows.get(*key) {
                found(idx, key, value);
            }
        }
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        for (idx, prefix) in prefixes.iter().enumerate() {
            let from = self.rows.range::<[u8], _>((Bound::Included(*prefix), Bound::Unbounded));
            from.take_while(|(key, _)| key.starts_with(prefix))
                .for_each(|(key, value)| found(idx, key, value));
        }
    }

    fn apply(&mut self, _: u64, change: Change) {
        let rows = Arc::make_mut(&mut self.rows);
        each_write(&change, self.n_key_bytes, |key, value| match value {
            Some(value) => drop(rows.insert(key.into(), value.into())),
            None => drop(rows.remove(key)),
        });
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        Box::new(ModelView(self.rows.clone()))
    }

    fn checkpoint(&mut self, _: u64) {}

    fn found_step(&mut self) -> Option<u64> {
        None
    }
}

struct ModelView(Arc<Rows>);

impl View for ModelView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        self.0.get(key).into_iter().for_each(|value| found(value));
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.iter().for_each(|(key, value)| found(key, value));
    }
}
