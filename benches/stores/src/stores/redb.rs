//! redb: a copy-on-write B+ tree in one file. Each step is a transaction, of which only a checkpoint's is synced.

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, Table, TableDefinition};

use super::{Change, Found, MARKER, Setting, Store, View, behind, each_write, marker, step_of};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

pub struct Redb {
    database: Database,
    n_key_bytes: usize,
}

impl Redb {
    pub fn open(setting: &Setting) -> Redb {
        let mut builder = Database::builder();
        builder.set_cache_size(setting.limit.unwrap_or(1 << 30));
        let database = builder.create(setting.directory.join("rows.redb")).unwrap();
        let redb = Redb { database, n_key_bytes: setting.n_key_bytes };
        if redb.database.begin_read().unwrap().open_table(ROWS).is_err() {
            redb.write(Durability::None, |_| ());
        }
        redb
    }

    fn write(&self, durability: Durability, change: impl FnOnce(&mut Table<&[u8], &[u8]>)) {
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_durability(durability).unwrap();
        // Otherwise a start after a crash reads everything.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        change(&mut transaction.open_table(ROWS).unwrap());
        transaction.commit().unwrap();
    }

    fn read(&self) -> ReadOnlyTable<&'static [u8], &'static [u8]> {
        self.database.begin_read().unwrap().open_table(ROWS).unwrap()
    }
}

impl Store for Redb {
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found) {
        let rows = self.read();
        for (idx, key) in keys.iter().enumerate() {
            if let Some(value) = rows.get(*key).unwrap() {
                found(idx, key, value.value());
            }
        }
    }

    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found) {
        let rows = self.read();
        for (idx, prefix) in prefixes.iter().enumerate() {
            for row in rows.range::<&[u8]>(*prefix..&behind(prefix)).unwrap() {
                let (key, value) = row.unwrap();
                found(idx, key.value(), value.value());
            }
        }
    }

    fn apply(&mut self, step: u64, change: Change) {
        self.write(Durability::None, |rows| {
            each_write(&change, self.n_key_bytes, |key, value| match value {
                Some(value) => drop(rows.insert(key, value).unwrap()),
                None => drop(rows.remove(key).unwrap()),
            });
            rows.insert(MARKER, marker(step).as_slice()).unwrap();
        });
    }

    fn snapshot(&mut self) -> Box<dyn View> {
        Box::new(RedbView(self.read()))
    }

    fn checkpoint(&mut self, step: u64) {
        self.write(Durability::Immediate, |rows| {
            rows.insert(MARKER, marker(step).as_slice()).unwrap();
        });
    }

    fn found_step(&mut self) -> Option<u64> {
        self.read().get(MARKER).unwrap().map(|marker| step_of(marker.value()))
    }
}

struct RedbView(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl View for RedbView {
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.0.get(key).unwrap() {
            found(value.value());
        }
    }

    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8])) {
        for row in self.0.range::<&[u8]>(..MARKER).unwrap() {
            let (key, value) = row.unwrap();
            found(key.value(), value.value());
        }
    }
}
