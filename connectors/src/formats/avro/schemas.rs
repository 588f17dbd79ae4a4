//! The schemas of a registry by id, each fetched once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::formats::avro::schema_registry::SchemaRegistry;
use crate::formats::records::Fault;

/// After this, a registry that did not know an id is asked again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Schemas {
    registry: SchemaRegistry,
    known: Arc<Mutex<HashMap<u32, Known>>>,
}

#[derive(Debug, Clone)]
enum Known {
    Schema(Arc<str>),
    /// Why there is none, and since when that is known.
    Unknown(Fault, Instant),
}

impl Schemas {
    pub fn new(registry: SchemaRegistry) -> Schemas {
        Schemas { registry, known: Arc::default() }
    }

    pub fn registry(&self) -> &SchemaRegistry {
        &self.registry
    }

    /// Those of the ids that must be asked for.
    pub fn missing(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        ids.retain(|id| match known.get(id) {
            Some(Known::Schema(_)) => false,
            Some(Known::Unknown(_, since)) => since.elapsed() > UNKNOWN_FOR,
            None => true,
        });
        ids
    }

    /// A schema that has been fetched, or why its records are bad.
    pub fn get(&self, id: u32) -> Result<Arc<str>, Fault> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&id) {
            Some(Known::Schema(schema)) => Ok(schema.clone()),
            Some(Known::Unknown(fault, _)) => Err(fault.clone()),
            None => unreachable!("schemas are fetched before values are decoded"),
        }
    }

    /// Fetches in tasks of their own: who waits may be dropped, and finds the schemas when it asks again.
    pub async fn fetch(&self, ids: &[u32]) -> Result<(), ConnectorError> {
        for id in ids.iter().copied() {
            let (registry, known) = (self.registry.clone(), self.known.clone());
            let fetched = tokio::spawn(async move {
                let found = match registry.schema(id).await? {
                    Ok(schema) => Known::Schema(schema.into()),
                    Err(reason) => {
                        tracing::warn!(id, %registry, reason, "records of a schema cannot be read");
                        Known::Unknown(Fault::new(SqlState::INVALID_TEXT, reason), Instant::now())
                    }
                };
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, found);
                Ok(())
            });
            fetched.await.map_err(|error| {
                let message = format!("fetching schema id {id} from {} broke off: {error}", self.registry);
                ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
            })??;
        }
        Ok(())
    }
}
