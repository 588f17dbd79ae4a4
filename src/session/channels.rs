//! `LISTEN` and `NOTIFY`: messages from session to session, by the name of a channel.
//!
//! What a transaction says takes effect when it commits, in its order; the same message twice is sent once. A message is
//! in the listeners' [`Backend`]s then, and the wire tells the clients of it when they are in no transaction. Nothing is kept: who
//! does not listen when it is sent does not get it, and a restart forgets who listened.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_core::SqlState;

use super::api::{Backend, Notification, SqlError};

/// As in PostgreSQL.
const CHANNEL_BYTES_MAX: usize = 63;
const PAYLOAD_BYTES_MAX: usize = 7999;

/// What a transaction will do to channels when it commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    Listen(String),
    /// `None`: to all.
    Unlisten(Option<String>),
    Notify {
        channel: String,
        payload: String,
    },
}

impl Announcement {
    pub fn notify(channel: &str, payload: &str) -> Result<Announcement, SqlError> {
        let invalid = |message: &str| Err(SqlError::new(SqlState::INVALID_PARAMETER, message));
        match () {
            () if channel.is_empty() => invalid("channel name cannot be empty"),
            () if channel.len() > CHANNEL_BYTES_MAX => invalid("channel name too long"),
            () if payload.len() > PAYLOAD_BYTES_MAX => invalid("payload string too long"),
            () => Ok(Announcement::Notify { channel: channel.to_owned(), payload: payload.to_owned() }),
        }
    }
}

/// Those of a transaction, in its order. Shared with its functions.
#[derive(Debug, Clone, Default)]
pub struct Announcements(Arc<Mutex<Vec<Announcement>>>);

impl Announcements {
    pub fn add(&self, announcement: Announcement) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_notification = matches!(announcement, Announcement::Notify { .. });
        if !(is_notification && all.contains(&announcement)) {
            all.push(announcement);
        }
    }

    pub fn take(&self) -> Vec<Announcement> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Back to what there was at a savepoint.
    pub fn truncate(&self, n: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).truncate(n);
    }
}

/// Who listens to what, by channel and process id.
#[derive(Debug, Default)]
pub struct Channels(Mutex<HashMap<String, BTreeMap<i32, Arc<Backend>>>>);

impl Channels {
    /// A transaction has committed.
    pub fn carry_out(&self, backend: &Arc<Backend>, announcements: Vec<Announcement>) {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for announcement in announcements {
            match announcement {
                Announcement::Listen(channel) => {
                    channels.entry(channel).or_default().insert(backend.pid, Arc::clone(backend));
                }
                Announcement::Unlisten(Some(channel)) => {
                    if let Some(listeners) = channels.get_mut(&channel) {
                        listeners.remove(&backend.pid);
                    }
                }
                Announcement::Unlisten(None) => {
                    channels.values_mut().for_each(|listeners| drop(listeners.remove(&backend.pid)));
                }
                Announcement::Notify { channel, payload } => {
                    for listener in channels.get(&channel).into_iter().flat_map(BTreeMap::values) {
                        listener.notify(Notification {
                            pid: backend.pid,
                            channel: channel.clone(),
                            payload: payload.clone(),
                        });
                    }
                }
            }
        }
        channels.retain(|_, listeners| !listeners.is_empty());
    }
}
