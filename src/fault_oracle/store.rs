//! An object store that fails in every way that one may.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::oracle::Rng;

/// What happens to a request.
enum Fate {
    Done,
    /// It is not done, and that is said.
    Refused,
    /// It is done, but the answer gets lost.
    Unheard,
    /// It counts as failed, and is done some time after that.
    Late,
}

/// The network and the store itself, which outlive servers.
pub(super) struct Weather {
    store: InMemory,
    rng: Mutex<Rng>,
    /// Of 1000 requests, how many fail.
    per_mille: AtomicU64,
    is_away: AtomicBool,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
    pub n_requests: AtomicU64,
    pub n_failed: AtomicU64,
}

impl Weather {
    pub fn new(seed: u64) -> Arc<Weather> {
        Arc::new(Weather {
            store: InMemory::new(),
            rng: Mutex::new(Rng::new(seed)),
            per_mille: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            late: Mutex::default(),
            n_requests: AtomicU64::new(0),
            n_failed: AtomicU64::new(0),
        })
    }

    pub fn set_per_mille(&self, per_mille: u64) {
        self.per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// Nothing reaches the store for a while.
    pub fn leave_for(self: &Arc<Weather>, time: Duration) {
        self.is_away.store(true, Ordering::SeqCst);
        let weather = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            weather.come_back();
        });
    }

    pub fn come_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    fn below(&self, n: u64) -> u64 {
        self.rng.lock().unwrap().below(n)
    }

    /// Lets a write arrive that somebody has given up long ago.
    pub async fn deliver_late(&self) {
        let late = self.late.lock().unwrap().pop();
        if let Some((path, payload, options)) = late {
            let _ = self.store.put_opts(&path, payload, options).await;
        }
    }

    async fn fate(&self) -> Fate {
        self.n_requests.fetch_add(1, Ordering::Relaxed);
        // Requests overtake each other.
        let delay = self.below(8);
        if delay > 4 {
            tokio::time::sleep(Duration::from_millis(delay - 4)).await;
        }
        if self.below(50) == 0 {
            self.deliver_late().await;
        }
        let is_away = self.is_away.load(Ordering::SeqCst);
        if is_away || self.below(1000) < self.per_mille.load(Ordering::SeqCst) {
            self.n_failed.fetch_add(1, Ordering::Relaxed);
            match self.below(3) {
                0 if !is_away => Fate::Unheard,
                1 if !is_away => Fate::Late,
                _ => Fate::Refused,
            }
        } else {
            Fate::Done
        }
    }
}

/// The store as one server sees it.
#[derive(Clone)]
pub(super) struct FaultyStore {
    weather: Arc<Weather>,
    /// The server has ended: what it may still ask for is never heard.
    is_cut: Arc<AtomicBool>,
}

impl FaultyStore {
    pub fn new(weather: &Arc<Weather>) -> FaultyStore {
        FaultyStore { weather: weather.clone(), is_cut: Arc::default() }
    }

    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    async fn fate(&self) -> Fate {
        let fate = self.weather.fate().await;
        if self.is_cut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        fate
    }

    /// For what changes nothing: it is answered or not.
    async fn answer<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate().await {
            Fate::Done => request.await,
            _ => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "the connection was lost".into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let store = &self.weather.store;
        match self.fate().await {
            Fate::Done => store.put_opts(path, payload, options).await,
            Fate::Refused => Err(lost()),
            Fate::Unheard => {
                let _ = store.put_opts(path, payload, options).await;
                Err(lost())
            }
            Fate::Late => {
                self.weather.late.lock().unwrap().push((path.clone(), payload, options));
                Err(lost())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.answer(self.weather.store.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.answer(self.weather.store.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |path: Result<Path>| {
            let this = this.clone();
            async move {
                let path = path?;
                let fate = this.fate().await;
                if matches!(fate, Fate::Done | Fate::Unheard) {
                    let one = stream::iter([Ok(path.clone())]).boxed();
                    this.weather.store.delete_stream(one).try_collect::<Vec<_>>().await?;
                }
                match fate {
                    Fate::Done => Ok(path),
                    _ => Err(lost()),
                }
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, found) = (self.clone(), self.weather.store.list(prefix));
        let list = async move {
            match this.fate().await {
                Fate::Done => found,
                _ => stream::iter([Err(lost())]).boxed(),
            }
        };
        stream::once(list).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answer(self.weather.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.answer(self.weather.store.copy_opts(from, to, options)).await
    }
}
