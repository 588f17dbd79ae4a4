//! What is asked of a store: rows as operators keep them, and the steps that change them.
//!
//! A row is two numbers, its key, and three numbers and a text of 32 characters. Encoded as Arrow's rows, which is how
//! the engine keeps state and how all stores get it here, that is 18 bytes of key and 64 bytes of value.
//! All of it follows from a seed.

use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringBuilder, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::row::Rows;
use foldhash::fast::FixedState;
use tidemill_storage::{Layout, SortColumn};

use crate::measure::Spent;
use crate::stores::{Change, Delta, Replaced, Store};

pub const KEY_BYTES: usize = 18;
const PREFIX_BYTES: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Groups are looked up, changed and put back; which ones, is uniform.
    Aggregate,
    /// The same; how often one comes is as Zipf says.
    AggregateSkewed,
    /// Rows of some keys are looked up, and rows with these keys are added.
    Join,
    /// Rows are put in place of others, added and removed, by their keys.
    View,
}

impl Pattern {
    pub fn named(name: &str) -> Pattern {
        match name {
            "aggregate" => Pattern::Aggregate,
            "aggregate-skewed" => Pattern::AggregateSkewed,
            "join" => Pattern::Join,
            "view" => Pattern::View,
            other => panic!("there is no pattern \"{other}\""),
        }
    }

    /// How many columns rows are looked up by.
    fn n_keys(self) -> usize {
        if self == Pattern::Join { 1 } else { 2 }
    }
}

pub fn layout(pattern: Pattern) -> Arc<Layout> {
    let column = |name, data_type| SortColumn::ascending(&Field::new(name, data_type, true));
    let columns = vec![
        column("k1", DataType::Int64),
        column("k2", DataType::Int64),
        column("count", DataType::Int64),
        column("total", DataType::Int64),
        column("newest", DataType::Int64),
        column("label", DataType::Utf8),
    ];
    Layout::new(columns, pattern.n_keys()).unwrap()
}

/// SplitMix64: a permutation of 64 bits that looks like chance.
pub fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Numbers that follow from a seed.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The sum of the hashes of rows: the same for the same rows, in whatever order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    pub n: u64,
    pub hash: u64,
}

const HASHER: FixedState = FixedState::with_seed(7);

impl Sum {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.n = self.n.wrapping_add(1);
        self.hash = self.hash.wrapping_add(HASHER.hash_one((key, value)));
    }

    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.n = self.n.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(HASHER.hash_one((key, value)));
    }

    pub fn text(&self) -> String {
        format!("{}:{:016x}", self.n, self.hash)
    }
}

/// What the parts of steps took.
#[derive(Debug, Default, Clone, Copy)]
pub struct Costs {
    pub lookup: Spent,
    pub apply: Spent,
    /// Keys that were looked up, and rows that were found.
    pub n_keys: u64,
    pub n_found: u64,
    /// Rows that were put, or removed.
    pub n_applied: u64,
}

/// Rows that have been looked up, one behind the other.
#[derive(Default)]
struct Looked {
    bytes: Vec<u8>,
    /// Where the row of a key is; of a prefix, the last one.
    rows: Vec<Option<u32>>,
    n_found: u64,
}

pub struct Workload {
    pattern: Pattern,
    layout: Arc<Layout>,
    seed: u64,
    n_rows: usize,
    /// Of the view: which version of a row is there, 0 being none.
    versions: Vec<u32>,
    /// Of the join: the number of rows so far.
    n_ids: usize,
    /// What the store must hold.
    pub contents: Sum,
    /// All that was looked up.
    pub answers: Sum,
}

impl Workload {
    pub fn new(pattern: Pattern, seed: u64, n_rows: usize) -> Workload {
        // A tenth of the keys of the view is not there at first.
        let n_versions = if pattern == Pattern::View { n_rows + n_rows / 10 } else { 0 };
        Workload {
            pattern,
            layout: layout(pattern),
            seed,
            n_rows,
            versions: vec![0; n_versions],
            n_ids: 0,
            contents: Sum::default(),
            answers: Sum::default(),
        }
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn chance(&self, step: u64) -> Chance {
        Chance::new(self.seed.wrapping_mul(1_000_003).wrapping_add(step))
    }

    /// Fills a store, `n` rows at a time.
    pub fn load(&mut self, store: &mut dyn Store, n: usize, costs: &mut Costs) {
        for first in (0..self.n_rows).step_by(n) {
            let ids: Vec<usize> = (first..self.n_rows.min(first + n)).collect();
            if self.pattern == Pattern::View {
                ids.iter().for_each(|id| self.versions[*id] = 1);
            }
            self.n_ids = first + ids.len();
            let versions = vec![1; ids.len()];
            let rows = self.encode(&ids, &versions);
            let n = ids.len();
            self.apply_delta(store, 0, Delta { rows, weights: vec![1; n], set: 0..n, gone: 0..0 }, costs);
        }
    }

    /// One step of `n` rows; `step` is above 0.
    pub fn step(&mut self, store: &mut dyn Store, step: u64, n: usize, costs: &mut Costs) {
        let mut chance = self.chance(step);
        match self.pattern {
            Pattern::Aggregate | Pattern::AggregateSkewed => {
                let ids: Vec<usize> = (0..n).map(|_| self.any_id(&mut chance)).collect();
                self.aggregate(store, step, &ids, &mut chance, costs);
            }
            Pattern::Join => self.join(store, step, n, costs),
            Pattern::View => self.view(store, step, n, &mut chance, costs),
        }
    }

    fn any_id(&self, chance: &mut Chance) -> usize {
        match self.pattern {
            Pattern::AggregateSkewed => {
                // Of exponent 1: how often something comes is inverse to its rank. Neighbours in rank are none in key.
                let rank = (self.n_rows as f64).powf(chance.unit()) as usize - 1;
                rank.min(self.n_rows - 1) * 7919 % self.n_rows
            }
            _ => chance.below(self.n_rows),
        }
    }

    /// The keys of rows: a tenant with a hashed number; of a join, its key with the row's number.
    fn key_of(&self, id: usize) -> (i64, i64) {
        let hash = mix(id as u64 ^ self.seed << 32);
        match self.pattern {
            // Four rows to a key at first.
            Pattern::Join => ((hash % (self.n_rows as u64 / 4).max(1)) as i64, id as i64),
            _ => ((id % 1000) as i64, (hash >> 1) as i64),
        }
    }

    fn keys_of(&self, ids: &[usize]) -> Vec<ArrayRef> {
        let keys: Vec<(i64, i64)> = ids.iter().map(|id| self.key_of(*id)).collect();
        vec![
            Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.0))),
            Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.1))),
        ]
    }

    /// Rows of some versions, encoded.
    fn encode(&self, ids: &[usize], versions: &[u32]) -> Rows {
        let mut columns = self.keys_of(ids);
        let numbers = |number: &dyn Fn(u64, u64) -> i64| -> ArrayRef {
            let each = ids.iter().zip(versions).map(|(id, version)| number(*id as u64, u64::from(*version)));
            Arc::new(Int64Array::from_iter_values(each))
        };
        columns.push(numbers(&|_, version| version as i64));
        columns.push(numbers(&|id, version| (mix(id ^ version << 40) % 100_000) as i64));
        columns.push(numbers(&|_, version| version as i64));
        columns.push(labels(
            ids.iter().zip(versions).map(|(id, version)| *id as u64 ^ u64::from(*version) << 40),
        ));
        self.layout.encode_rows(&columns).unwrap()
    }

    fn aggregate(
        &mut self,
        store: &mut dyn Store,
        step: u64,
        ids: &[usize],
        chance: &mut Chance,
        costs: &mut Costs,
    ) {
        let amounts: Vec<i64> = ids.iter().map(|_| chance.below(1000) as i64).collect();
        let keys = self.keys_of(ids);
        let encoded = self.layout.encode_keys(&keys).unwrap();
        let groups = Groups::of(&encoded);
        let group_keys = groups.keys(&encoded);
        let looked = self.look_up(store, &group_keys, KEY_BYTES, costs);
        let old = self.layout.decode((0..looked.n_found as usize).map(|row| looked.row(row))).unwrap();
        let numbers = |column: usize| old[column].as_primitive::<Int64Type>();
        let mut counts = vec![0i64; group_keys.len()];
        let mut totals = vec![0i64; group_keys.len()];
        for (group, row) in looked.rows.iter().enumerate() {
            if let Some(row) = row {
                counts[group] = numbers(2).value(*row as usize);
                totals[group] = numbers(3).value(*row as usize);
            }
        }
        for (group, amount) in groups.ids.iter().zip(amounts) {
            counts[*group as usize] += 1;
            totals[*group as usize] += amount;
        }
        let firsts = UInt32Array::from(groups.firsts.clone());
        let mut columns: Vec<ArrayRef> = keys.iter().map(|key| take(key, &firsts, None).unwrap()).collect();
        columns.push(Arc::new(Int64Array::from(counts)));
        columns.push(Arc::new(Int64Array::from(totals)));
        columns.push(Arc::new(Int64Array::from(vec![step as i64; group_keys.len()])));
        columns.push(labels(groups.firsts.iter().map(|row| ids[*row as usize] as u64 ^ step << 40)));
        let new = self.layout.encode_rows(&columns).unwrap();
        let replaced: Vec<Replaced> = (0..group_keys.len())
            .map(|group| Replaced {
                old: looked.rows[group].map(|row| looked.row(row as usize)),
                new: new.row(group).data(),
            })
            .collect();
        costs.n_applied += replaced.len() as u64;
        costs.apply.by(|| store.apply(step, Change::Replaced(&replaced)));
        for row in &replaced {
            if let Some(old) = row.old {
                self.contents.remove(&old[..KEY_BYTES], &old[KEY_BYTES..]);
            }
            self.contents.add(&row.new[..KEY_BYTES], &row.new[KEY_BYTES..]);
        }
    }

    fn join(&mut self, store: &mut dyn Store, step: u64, n: usize, costs: &mut Costs) {
        let ids: Vec<usize> = (self.n_ids..self.n_ids + n).collect();
        self.n_ids += n;
        let keys = self.layout.encode_keys(&self.keys_of(&ids)[..1]).unwrap();
        let groups = Groups::of(&keys);
        self.look_up(store, &groups.keys(&keys), PREFIX_BYTES, costs);
        let rows = self.encode(&ids, &vec![step as u32; n]);
        self.apply_delta(store, step, Delta { rows, weights: vec![1; n], set: 0..n, gone: 0..0 }, costs);
    }

    fn view(&mut self, store: &mut dyn Store, step: u64, n: usize, chance: &mut Chance, costs: &mut Costs) {
        let mut ids: Vec<usize> = (0..n).map(|_| chance.below(self.versions.len())).collect();
        ids.sort_unstable();
        ids.dedup();
        let (mut set, mut updated, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            match self.versions[id] {
                0 => set.push(id),
                _ if chance.below(11) == 0 => gone.push(id),
                _ => {
                    set.push(id);
                    updated.push(id);
                }
            }
        }
        let (n_set, n_gone) = (set.len(), gone.len());
        let mut versions = vec![step as u32 + 1; n_set];
        let old = updated.iter().chain(&gone);
        versions.extend(old.map(|id| self.versions[*id]));
        set.iter().for_each(|id| self.versions[*id] = step as u32 + 1);
        gone.iter().for_each(|id| self.versions[*id] = 0);
        let ids = [set, updated, gone].concat();
        let rows = self.encode(&ids, &versions);
        let mut weights = vec![1; n_set];
        weights.resize(ids.len(), -1);
        let delta = Delta { rows, weights, set: 0..n_set, gone: ids.len() - n_gone..ids.len() };
        self.apply_delta(store, step, delta, costs);
    }

    fn apply_delta(&mut self, store: &mut dyn Store, step: u64, delta: Delta, costs: &mut Costs) {
        costs.n_applied += (delta.set.len() + delta.gone.len()) as u64;
        costs.apply.by(|| store.apply(step, Change::Delta(&delta)));
        for (row, weight) in delta.rows.iter().zip(&delta.weights) {
            let (key, value) = row.data().split_at(KEY_BYTES);
            match weight {
                1 => self.contents.add(key, value),
                _ => self.contents.remove(key, value),
            }
        }
    }

    fn look_up(
        &mut self,
        store: &mut dyn Store,
        keys: &[&[u8]],
        n_bytes: usize,
        costs: &mut Costs,
    ) -> Looked {
        let mut looked = Looked { rows: vec![None; keys.len()], ..Looked::default() };
        looked.bytes.reserve(keys.len() * 82);
        costs.lookup.by(|| {
            let found = &mut |idx: usize, key: &[u8], value: &[u8]| {
                looked.rows[idx] = Some(looked.n_found as u32);
                looked.bytes.extend_from_slice(key);
                looked.bytes.extend_from_slice(value);
                looked.n_found += 1;
            };
            match n_bytes {
                KEY_BYTES => store.lookup(keys, found),
                _ => store.lookup_prefixes(keys, found),
            }
        });
        costs.n_keys += keys.len() as u64;
        costs.n_found += looked.n_found;
        for row in 0..looked.n_found as usize {
            let (key, value) = looked.row(row).split_at(KEY_BYTES);
            self.answers.add(key, value);
        }
        looked
    }

    /// A look-up of `n` keys, as the first thing that a restarted process is asked.
    pub fn first_lookup(&mut self, store: &mut dyn Store, n: usize) -> (Spent, Sum) {
        let mut chance = self.chance(u64::MAX);
        let ids: Vec<usize> = (0..n).map(|_| chance.below(self.n_rows)).collect();
        let keys = self.keys_of(&ids);
        let n_bytes = if self.pattern == Pattern::Join { PREFIX_BYTES } else { KEY_BYTES };
        let keys = self.layout.encode_keys(&keys[..self.pattern.n_keys()]).unwrap();
        let groups = Groups::of(&keys);
        let (before, mut costs) = (std::mem::take(&mut self.answers), Costs::default());
        self.look_up(store, &groups.keys(&keys), n_bytes, &mut costs);
        let answers = std::mem::replace(&mut self.answers, before);
        (costs.lookup, answers)
    }

    /// Some keys of the view, and which versions they have now, 0 being none.
    pub fn point_reads(&self, step: u64, n: usize) -> PointReads {
        let mut chance = self.chance(step ^ 1 << 63);
        let ids: Vec<usize> = (0..n).map(|_| chance.below(self.versions.len())).collect();
        let keys = self.layout.encode_keys(&self.keys_of(&ids)).unwrap();
        PointReads { versions: ids.iter().map(|id| self.versions[*id]).collect(), keys }
    }
}

pub struct PointReads {
    pub keys: Rows,
    versions: Vec<u32>,
}

impl PointReads {
    /// Whether a value is of the version that belongs there.
    pub fn is_right(&self, idx: usize, value: Option<&[u8]>) -> bool {
        // The third column: whether it is NULL, and a number with its sign turned.
        let version = value.map(|value| u64::from_be_bytes(value[19..27].try_into().unwrap()) ^ 1 << 63);
        version.unwrap_or(0) == u64::from(self.versions[idx])
    }
}

impl Looked {
    fn row(&self, idx: usize) -> &[u8] {
        let n_bytes = self.bytes.len() / self.n_found as usize;
        &self.bytes[idx * n_bytes..(idx + 1) * n_bytes]
    }
}

fn labels(of: impl Iterator<Item = u64>) -> ArrayRef {
    let mut labels = StringBuilder::new();
    for n in of {
        let (a, b) = (mix(n), mix(!n));
        let mut text = [0; 32];
        for (at, byte) in text.iter_mut().enumerate() {
            let word = if at < 16 { a } else { b };
            *byte = b"0123456789abcdef"[(word >> (at % 16 * 4)) as usize & 15];
        }
        labels.append_value(std::str::from_utf8(&text).expect("hexadecimal digits"));
    }
    Arc::new(labels.finish())
}

/// Rows with the same key, as the engine's `Grouping` has them: groups ascend.
struct Groups {
    ids: Vec<u32>,
    firsts: Vec<u32>,
}

impl Groups {
    fn of(keys: &Rows) -> Groups {
        let key = |row: u32| keys.row(row as usize).data();
        let mut order: Vec<u32> = (0..keys.num_rows() as u32).collect();
        order.sort_by(|a, b| key(*a).cmp(key(*b)));
        let (mut ids, mut firsts): (Vec<u32>, Vec<u32>) = (vec![0; order.len()], Vec::new());
        for row in order {
            if firsts.last().is_none_or(|first| key(*first) != key(row)) {
                firsts.push(row);
            }
            ids[row as usize] = firsts.len() as u32 - 1;
        }
        Groups { ids, firsts }
    }

    fn keys<'a>(&self, keys: &'a Rows) -> Vec<&'a [u8]> {
        self.firsts.iter().map(|row| keys.row(*row as usize).data()).collect()
    }
}
