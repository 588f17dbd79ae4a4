//! Sequences: numbers that are given once.
//!
//! Numbers are given from memory, by functions that cannot wait. Before anything leaves a statement that took some
//! (rows to a client, a write to a table), [`Sequences::settle`] has made durable how far they went, and some more, so
//! that most statements find it done. A crash loses what was made durable ahead: up to that many numbers are
//! skipped, and none is given twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidemill_catalog::{Catalog, Definition, Kind, Object, SequenceDefinition};
use tidemill_core::SqlState;
use tidemill_engine::Engine;

use crate::session::api::SqlError;

/// How many numbers are made durable ahead, as in PostgreSQL.
const AHEAD: i64 = 32;

/// How far each sequence has counted, by OID.
#[derive(Debug, Default)]
pub struct Sequences {
    counters: Mutex<HashMap<u32, Counter>>,
    /// Held while some of it is made durable.
    settling: tokio::sync::Mutex<()>,
}

/// A sequence's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    pub last: i64,
    /// Whether `last` has been given.
    pub is_called: bool,
    /// Where it would go on after a crash, and whether that number counts as given; none after a jump.
    durable: Option<(i64, bool)>,
}

/// The keys of a sequence's marks: where it is, and whether that number has been given.
fn keys(oid: u32) -> [i64; 2] {
    [i64::from(oid) * 2, i64::from(oid) * 2 + 1]
}

impl Sequences {
    fn counters(&self) -> MutexGuard<'_, HashMap<u32, Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what has been durable before.
    pub async fn recover(&self, engine: &Engine, catalog: &Catalog) -> Result<(), SqlError> {
        let marks = engine.marks().await?;
        let mut counters = self.counters();
        for object in catalog.objects_of(Kind::Sequence) {
            let Definition::Sequence(definition) = &object.definition else { continue };
            let [last, is_called] = keys(object.oid).map(|key| marks.get(&key).copied());
            let last = last.unwrap_or(definition.start);
            let is_called = is_called == Some(1);
            counters.insert(object.oid, Counter { last, is_called, durable: Some((last, is_called)) });
        }
        Ok(())
    }

    /// Begins a sequence. On return its place is durable; whatever had its OID before, and did not come to be, is not
    /// there any more.
    pub async fn create(&self, engine: &Engine, object: &Object) -> Result<(), SqlError> {
        let Definition::Sequence(definition) = &object.definition else { return Ok(()) };
        let [last, is_called] = keys(object.oid);
        engine.mark(&[(last, definition.start), (is_called, 0)]).await?;
        let counter =
            Counter { last: definition.start, is_called: false, durable: Some((definition.start, false)) };
        self.counters().insert(object.oid, counter);
        Ok(())
    }

    /// Forgets a sequence.
    pub async fn forget(&self, engine: &Engine, oid: u32) -> Result<(), SqlError> {
        // Nobody makes its place durable at the same time.
        let _settling = self.settling.lock().await;
        self.counters().remove(&oid);
        for key in keys(oid) {
            engine.erase_mark(key).await?;
        }
        Ok(())
    }

    /// Where a sequence is.
    pub fn get(&self, oid: u32) -> Option<Counter> {
        self.counters().get(&oid).copied()
    }

    /// The next number.
    pub fn next(&self, object: &Object) -> Result<i64, SqlError> {
        let definition = definition(object)?;
        let mut counters = self.counters();
        let counter = counters.get_mut(&object.oid).ok_or_else(|| unknown(object))?;
        let next = match counter.is_called {
            false => counter.last,
            true => match after(definition, counter.last) {
                Some(next) => next,
                None if definition.cycle => {
                    counter.durable = None;
                    if definition.increment > 0 { definition.min } else { definition.max }
                }
                None => return Err(exhausted(object, definition)),
            },
        };
        counter.last = next;
        counter.is_called = true;
        Ok(next)
    }

    /// Puts a sequence to a place.
    pub fn set(&self, object: &Object, value: i64, is_called: bool) -> Result<(), SqlError> {
        let definition = definition(object)?;
        if !(definition.min..=definition.max).contains(&value) {
            let message = format!(
                "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                object.name, definition.min, definition.max
            );
            return Err(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message));
        }
        let mut counters = self.counters();
        let counter = counters.get_mut(&object.oid).ok_or_else(|| unknown(object))?;
        *counter = Counter { last: value, is_called, durable: None };
        Ok(())
    }

    /// Makes durable what has been given so far.
    pub async fn settle(&self, engine: &Engine, catalog: &Catalog) -> Result<(), SqlError> {
        if self.unsettled(catalog).is_empty() {
            return Ok(());
        }
        let _settling = self.settling.lock().await;
        let unsettled = self.unsettled(catalog);
        if unsettled.is_empty() {
            return Ok(());
        }
        let marks: Vec<(i64, i64)> = unsettled
            .iter()
            .flat_map(|(oid, _, place, is_called)| {
                let [last, called] = keys(*oid);
                [(last, *place), (called, i64::from(*is_called))]
            })
            .collect();
        engine.mark(&marks).await?;
        let mut counters = self.counters();
        for (oid, seen, place, is_called) in unsettled {
            let Some(counter) = counters.get_mut(&oid) else { continue };
            // A place that was set meanwhile is not the one that is durable now.
            if counter.durable == seen.durable && (counter.durable.is_some() || *counter == seen) {
                counter.durable = Some((place, is_called));
            }
        }
        Ok(())
    }

    /// Makes durable exactly where each sequence is: the server stops, and nothing more is given.
    pub async fn park(&self, engine: &Engine) -> Result<(), SqlError> {
        let is_ahead = |counter: &Counter| counter.durable != Some((counter.last, counter.is_called));
        let marks: Vec<(i64, i64)> = self
            .counters()
            .iter()
            .filter(|(_, counter)| is_ahead(counter))
            .flat_map(|(oid, counter)| {
                let [last, called] = keys(*oid);
                [(last, counter.last), (called, i64::from(counter.is_called))]
            })
            .collect();
        match marks.is_empty() {
            true => Ok(()),
            false => Ok(engine.mark(&marks).await?),
        }
    }

    /// Sequences that have counted further than is durable: as they are, where they are to go on after a crash, and
    /// whether that number counts as given.
    fn unsettled(&self, catalog: &Catalog) -> Vec<(u32, Counter, i64, bool)> {
        let counters = self.counters();
        let mut unsettled = Vec::new();
        for (oid, counter) in counters.iter() {
            let Some(Definition::Sequence(definition)) = catalog.get(*oid).map(|object| &object.definition)
            else {
                continue;
            };
            let is_settled = counter.durable.is_some_and(|(durable, is_called)| match is_called {
                false => !counter.is_called,
                true if definition.increment > 0 => counter.last <= durable,
                true => counter.last >= durable,
            });
            if is_settled {
                continue;
            }
            let ahead = definition.increment.saturating_mul(AHEAD - 1);
            let place = match counter.is_called {
                true => counter.last.saturating_add(ahead).clamp(definition.min, definition.max),
                false => counter.last,
            };
            unsettled.push((*oid, *counter, place, counter.is_called));
        }
        unsettled
    }
}

fn definition(object: &Object) -> Result<&SequenceDefinition, SqlError> {
    match &object.definition {
        Definition::Sequence(definition) => Ok(definition),
        _ => {
            Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, format!("\"{}\" is not a sequence", object.name)))
        }
    }
}

fn after(definition: &SequenceDefinition, last: i64) -> Option<i64> {
    let next = last.checked_add(definition.increment)?;
    (definition.min..=definition.max).contains(&next).then_some(next)
}

fn exhausted(object: &Object, definition: &SequenceDefinition) -> SqlError {
    let (word, bound) = match definition.increment > 0 {
        true => ("maximum", definition.max),
        false => ("minimum", definition.min),
    };
    let message = format!("nextval: reached {word} value of sequence \"{}\" ({bound})", object.name);
    SqlError::new(SqlState("2200H"), message).with_hint("Create it with CYCLE to begin anew, or as a bigint.")
}

fn unknown(object: &Object) -> SqlError {
    let message = format!("sequence \"{}\" is being created or dropped", object.name);
    SqlError::new(SqlState::OBJECT_IN_USE, message)
}

/// The numbers that a session has been given, for `currval` and `lastval`.
#[derive(Debug, Default)]
pub struct Given(Mutex<(HashMap<u32, i64>, Option<u32>)>);

impl Given {
    pub fn note(&self, oid: u32, value: i64) {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.0.insert(oid, value);
        given.1 = Some(oid);
    }

    pub fn current(&self, object: &Object) -> Result<i64, SqlError> {
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.0.get(&object.oid).copied().ok_or_else(|| {
            let message =
                format!("currval of sequence \"{}\" is not yet defined in this session", object.name);
            SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, message)
        })
    }

    pub fn last(&self) -> Result<i64, SqlError> {
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.1.and_then(|oid| given.0.get(&oid).copied()).ok_or_else(|| {
            SqlError::new(SqlState::NOT_IN_PREREQUISITE_STATE, "lastval is not yet defined in this session")
        })
    }

    /// `DISCARD SEQUENCES`
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }
}
