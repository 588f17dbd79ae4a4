//! The stores, behind what an operator, a view and a checkpoint need of one.

mod fjall;
mod model;
mod ours;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod slatedb;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::row::Rows;
use tidemill_storage::Layout;

/// Above all keys: Arrow's rows begin with whether the first column is NULL. What stands there is the last step, put
/// together with its rows, so that what is found after a crash is known to be of one step.
const MARKER: &[u8] = &[0xff];

/// How a store is opened.
#[derive(Clone)]
pub struct Setting<'a> {
    pub directory: &'a Path,
    /// Bytes of memory for everything that the store keeps; without one, as much as it wants.
    pub limit: Option<usize>,
    pub layout: Arc<Layout>,
    /// How long the bytes of a key are: of a row, what stands behind is the value.
    pub n_key_bytes: usize,
}

/// What a step does to the rows.
pub enum Change<'a> {
    /// Of each key, ascending, the row that was there and the one that is.
    Replaced(&'a [Replaced<'a>]),
    /// Rows in any order.
    Delta(&'a Delta),
}

pub struct Replaced<'a> {
    pub old: Option<&'a [u8]>,
    pub new: &'a [u8],
}

/// Rows and weights as they come out of an operator; and the same for a store that knows rows by keys.
pub struct Delta {
    pub rows: Rows,
    pub weights: Vec<i64>,
    /// The rows that are there afterwards.
    pub set: Range<usize>,
    /// The rows whose keys are gone.
    pub gone: Range<usize>,
}

/// `(index of the key, key, value)`
pub type Found<'a> = dyn FnMut(usize, &[u8], &[u8]) + 'a;

pub trait Store {
    /// The rows of some keys, ascending.
    fn lookup(&mut self, keys: &[&[u8]], found: &mut Found);
    /// All rows whose keys begin with one of `prefixes`, ascending.
    fn lookup_prefixes(&mut self, prefixes: &[&[u8]], found: &mut Found);
    fn apply(&mut self, step: u64, change: Change);
    fn snapshot(&mut self) -> Box<dyn View>;
    /// Makes durable what has been applied.
    fn checkpoint(&mut self, step: u64);
    /// The last step that was found at the start.
    fn found_step(&mut self) -> Option<u64>;
    /// Bytes of memory that hold rows, where the store can tell: the allocator may keep more.
    fn held(&self) -> Option<usize> {
        None
    }
}

/// The rows of one moment.
pub trait View: Send {
    /// Calls `found` with the value of a key, if there is one.
    fn get(&mut self, key: &[u8], found: &mut dyn FnMut(&[u8]));
    /// All rows in order.
    fn scan(&mut self, found: &mut dyn FnMut(&[u8], &[u8]));
}

pub fn open(name: &str, setting: &Setting) -> Box<dyn Store> {
    match name {
        "tidemill" => Box::new(ours::Ours::open(setting)),
        "fjall" => Box::new(fjall::Fjall::open(setting)),
        "redb" => Box::new(redb::Redb::open(setting)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(rocksdb::Rocks::open(setting)),
        "slatedb" => Box::new(slatedb::Slate::open(setting)),
        "model" => Box::new(model::Model::open(setting)),
        other => panic!("there is no store \"{other}\" here"),
    }
}

/// The puts and removals of a change, for stores that know nothing else.
fn each_write<'a>(
    change: &Change<'a>,
    n_key_bytes: usize,
    mut write: impl FnMut(&'a [u8], Option<&'a [u8]>),
) {
    match change {
        Change::Replaced(rows) => {
            for row in *rows {
                let (key, value) = row.new.split_at(n_key_bytes);
                write(key, Some(value));
            }
        }
        Change::Delta(delta) => {
            for row in delta.set.clone() {
                let (key, value) = delta.rows.row(row).data().split_at(n_key_bytes);
                write(key, Some(value));
            }
            for row in delta.gone.clone() {
                write(&delta.rows.row(row).data()[..n_key_bytes], None);
            }
        }
    }
}

/// The first key behind all that begin with `prefix`.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    unreachable!("keys begin with something below 0xff")
}

fn marker(step: u64) -> [u8; 8] {
    step.to_be_bytes()
}

fn step_of(marker: &[u8]) -> u64 {
    u64::from_be_bytes(marker.try_into().expect("eight bytes"))
}
