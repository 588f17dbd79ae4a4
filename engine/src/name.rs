//! What an object is called, by all who speak of it.

use std::fmt;
use std::sync::{Arc, RwLock};

/// A name that may change. Clones are one name: who holds one hears of the change.
#[derive(Clone)]
pub struct Name(Arc<RwLock<Arc<str>>>);

impl Name {
    /// As it is now.
    pub fn get(&self) -> Arc<str> {
        self.0.read().expect("nobody panics while holding it").clone()
    }

    pub(crate) fn set(&self, name: &str) {
        *self.0.write().expect("nobody panics while holding it") = name.into();
    }
}

impl<T: Into<Arc<str>>> From<T> for Name {
    fn from(name: T) -> Name {
        Name(Arc::new(RwLock::new(name.into())))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.get())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.get(), f)
    }
}
