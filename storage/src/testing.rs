//! Object stores with faults, for tests.

use std::fmt;
use std::sync::Mutex;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A store in memory that does not do as it is asked.
#[derive(Debug, Default)]
pub(crate) struct Troubled {
    store: InMemory,
    /// It writes whatever the condition says.
    ignores_conditions: bool,
    /// The next write to a path with this in it is refused.
    refused: Mutex<Option<&'static str>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl Troubled {
    /// One that ignores conditions.
    pub fn unconditional() -> Troubled {
        Troubled { ignores_conditions: true, ..Troubled::default() }
    }

    pub fn refuse(&self, part: &'static str) {
        *self.refused.lock().unwrap() = Some(part);
    }

    /// Makes writes that nobody waits for any more.
    pub async fn make_what_was_refused(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (path, payload, options) in late {
            let _ = self.store.put_opts(&path, payload, options).await;
        }
    }
}

impl fmt::Display for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("troubled")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Troubled {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_refused = self.refused.lock().unwrap().take_if(|part| path.as_ref().contains(*part)).is_some();
        if is_refused {
            self.late.lock().unwrap().push((path.clone(), payload, options));
            return Err(Error::Generic { store: "troubled", source: "the connection was lost".into() });
        }
        let options = if self.ignores_conditions { PutOptions::default() } else { options };
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
