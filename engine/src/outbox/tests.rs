use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use async_trait::async_trait;
use tidemill_core::Delta;
use tidemill_core::sink::{Refused, check_reached};

use super::*;
use crate::ipc::encode_batch;

/// A destination that remembers rows and epoch, and can be made to lose the answer to a write, or to be away.
#[derive(Debug, Default)]
struct Destination {
    state: Mutex<(Vec<i64>, Epoch)>,
    loses_answers: AtomicU64,
    is_away: AtomicBool,
    gathers: AtomicBool,
    /// It does not take rows as large.
    refused_from: AtomicU64,
}

#[derive(Debug, Clone)]
struct Remembering(Arc<Destination>);

struct Writer {
    destination: Arc<Destination>,
    reached: Epoch,
    unwritten: Vec<SinkBatch>,
    refusals: Option<Arc<dyn Refusals>>,
}

#[async_trait]
impl Sink for Remembering {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        if self.0.is_away.load(Ordering::Relaxed) {
            return Err(ConnectorError::transient(SqlState::CONNECTION_FAILURE, "nobody is there"));
        }
        let reached = self.0.state.lock().unwrap().1;
        check_reached("it", Some(reached), written)?;
        Ok(Box::new(Writer { destination: self.0.clone(), reached, unwritten: Vec::new(), refusals: None }))
    }
}

#[async_trait]
impl SinkWriter for Writer {
    fn reached(&self) -> Option<Epoch> {
        Some(self.reached)
    }

    fn leave_out(&mut self, refusals: Arc<dyn Refusals>) {
        self.refusals = Some(refusals);
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let limit = self.destination.refused_from.load(Ordering::Relaxed);
        let rows = batch.delta.rows();
        let is_taken = |n: &i64| limit == 0 || (*n as u64) < limit;
        let (taken, refused): (Vec<i64>, Vec<i64>) =
            rows.column(0).as_primitive::<Int64Type>().values().iter().partition(|n| is_taken(n));
        if !refused.is_empty() {
            let error = ConnectorError::fatal(SqlState::DATA_EXCEPTION, "too large");
            let Some(refusals) = &self.refusals else { return Err(error) };
            let row =
                |place| Refused { to: batch.to, place, row: rows.slice(place, 1), error: error.clone() };
            refusals.keep((taken.len()..rows.num_rows()).map(row).collect()).await?;
        }
        self.unwritten.push(super::tests::batch(batch.from.0, batch.to.0, &taken));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        let mut state = self.destination.state.lock().unwrap();
        for batch in self.unwritten.drain(..) {
            state.0.extend(batch.delta.batch().column(0).as_primitive::<Int64Type>().values());
            state.1 = batch.to;
        }
        let is_lost = self.destination.loses_answers.load(Ordering::Relaxed) > 0;
        if is_lost {
            self.destination.loses_answers.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectorError::transient(SqlState::CONNECTION_FAILURE, "no answer"));
        }
        Ok(())
    }

    fn flush_at(&self) -> Option<Instant> {
        let gathers = self.destination.gathers.load(Ordering::Relaxed) && self.unwritten.len() < 3;
        gathers.then(|| Instant::now() + Duration::from_secs(3600))
    }
}

fn batch(from: u64, to: u64, rows: &[i64]) -> SinkBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let rows: Arc<dyn Array> = Arc::new(Int64Array::from(rows.to_vec()));
    let rows = RecordBatch::try_new(schema, vec![rows]).unwrap();
    SinkBatch { from: Epoch(from), to: Epoch(to), delta: Delta::inserts(&rows) }
}

fn outbox(destination: &Arc<Destination>) -> Outbox {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let outbox =
        Outbox::new(Arc::new(Remembering(destination.clone())), schema, |_| Arc::new(Keeping::default()));
    outbox.status().begin();
    outbox
}

#[derive(Default)]
struct Keeping(Mutex<Vec<i64>>);

#[async_trait]
impl Refusals for Keeping {
    async fn keep(&self, refused: Vec<Refused>) -> Result<(), ConnectorError> {
        let n = |refused: &Refused| refused.row.column(0).as_primitive::<Int64Type>().value(0);
        self.0.lock().unwrap().extend(refused.iter().map(n));
        Ok(())
    }
}

fn restored(destination: &Arc<Destination>, checkpoint: &BTreeMap<String, Bytes>) -> Outbox {
    let mut outbox = outbox(destination);
    outbox.restore(checkpoint, Epoch(u64::MAX)).unwrap();
    outbox.start();
    outbox
}

/// A checkpoint that is durable.
fn checkpoint(outbox: &Outbox) -> BTreeMap<String, Bytes> {
    let captured = outbox.capture();
    // As a store would give them back.
    let stored = captured.iter().map(|(name, bytes)| (name.clone(), Bytes::copy_from_slice(bytes))).collect();
    outbox.durable(&stored);
    stored
}

fn rows(destination: &Destination) -> Vec<i64> {
    destination.state.lock().unwrap().0.clone()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets the outbox deliver until nothing that may leave is left.
async fn settle(outbox: &Outbox) {
    until("all that may leave leaves", || outbox.shared.leaving(0).unwrap().is_empty()).await;
}

async fn until_retried(outbox: &Outbox) {
    let before = outbox.status().retries.get();
    until("it is tried again", || outbox.status().retries.get() >= before + 2).await;
}

async fn until_verified(outbox: &Outbox) {
    until("the destination answers", || outbox.shared.queue().is_verified).await;
}

#[tokio::test]
async fn only_what_a_checkpoint_holds_leaves() {
    let destination = Arc::default();
    let mut outbox = outbox(&destination);
    outbox.start();
    outbox.push(batch(0, 3, &[1]));
    let captured = outbox.capture();
    outbox.push(batch(3, 5, &[2]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rows(&destination), Vec::<i64>::new());
    assert!(!outbox.is_stale());
    outbox.durable(&captured);
    settle(&outbox).await;
    assert_eq!(rows(&destination), [1]);
    assert!(outbox.is_stale(), "the checkpoint holds what has arrived");
    outbox.capture();
    assert!(!outbox.is_stale());
    assert_eq!(outbox.status().pending_rows(), 1);
}

#[tokio::test]
async fn nothing_leaves_before_the_sink_is_known() {
    let destination = Arc::default();
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let sink = Arc::new(Remembering(Arc::clone(&destination)));
    let mut outbox = Outbox::new(sink, schema, |_| Arc::new(Keeping::default()));
    outbox.start();
    outbox.push(batch(0, 3, &[1]));
    checkpoint(&outbox);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rows(&destination), Vec::<i64>::new());
    outbox.status().begin();
    settle(&outbox).await;
    assert_eq!(rows(&destination), [1]);
}

#[tokio::test]
async fn what_is_paused_stays_until_it_is_resumed() {
    let destination = Arc::default();
    let mut outbox = outbox(&destination);
    outbox.start();
    until_verified(&outbox).await;
    outbox.status().pause().await;
    outbox.push(batch(0, 3, &[1]));
    checkpoint(&outbox);
    // Not even to try again with a new writer.
    outbox.status().restart();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((rows(&destination), outbox.status().pending_rows()), (Vec::new(), 1));
    outbox.status().resume();
    until("it arrives", || {
        if outbox.is_stale() {
            checkpoint(&outbox);
        }
        rows(&destination) == [1]
    })
    .await;
}

#[tokio::test]
async fn what_does_not_mend_itself_pauses_a_sink_if_it_says_so() {
    let destination = Arc::new(Destination { refused_from: AtomicU64::new(7), ..Destination::default() });
    let mut outbox = outbox(&destination);
    outbox.status().set_on_error(OnError::Pause);
    outbox.start();
    outbox.push(batch(0, 3, &[1, 9]));
    checkpoint(&outbox);
    until("it is paused", || outbox.status().stopped().is_some()).await;
    let stopped = outbox.status().stopped().unwrap();
    assert!(stopped.reason.contains("too large") && stopped.since > 0, "{stopped:?}");
    let n_retries = outbox.status().retries.get();
    outbox.push(batch(3, 5, &[2]));
    checkpoint(&outbox);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!((outbox.status().retries.get(), rows(&destination)), (n_retries, Vec::new()));

    // What is of the moment is tried again.
    destination.refused_from.store(0, Ordering::Relaxed);
    destination.is_away.store(true, Ordering::Relaxed);
    outbox.status().restart();
    until_retried(&outbox).await;
    assert!(outbox.status().stopped().is_none());
    destination.is_away.store(false, Ordering::Relaxed);
    until("all of it arrives", || {
        if outbox.is_stale() {
            checkpoint(&outbox);
        }
        rows(&destination) == [1, 9, 2]
    })
    .await;
}

#[tokio::test]
async fn what_a_destination_refuses_is_left_out_once_somebody_says_so() {
    let destination = Arc::new(Destination { refused_from: AtomicU64::new(7), ..Destination::default() });
    let kept = Arc::new(Keeping::default());
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let sink = Arc::new(Remembering(Arc::clone(&destination)));
    let mut outbox = Outbox::new(sink, schema, |_| kept.clone());
    outbox.status().begin();
    outbox.start();
    outbox.push(batch(0, 3, &[1, 8, 9]));
    checkpoint(&outbox);
    until_retried(&outbox).await;
    outbox.status().set_on_error(OnError::DeadLetter);
    until("the others arrive", || {
        if outbox.is_stale() {
            checkpoint(&outbox);
        }
        rows(&destination) == [1]
    })
    .await;
    assert_eq!(*kept.0.lock().unwrap(), [8, 9]);
    until("nothing waits", || outbox.status().pending_rows() == 0).await;
}

#[tokio::test]
async fn a_lost_answer_doubles_nothing() {
    let destination = Arc::new(Destination { loses_answers: AtomicU64::new(3), ..Destination::default() });
    let mut outbox = outbox(&destination);
    outbox.start();
    for to in 1..6 {
        outbox.push(batch(to - 1, to, &[to as i64]));
        checkpoint(&outbox);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // What came while the destination was in doubt is let go by the checkpoint after that.
    until("all of it arrives", || {
        if outbox.is_stale() {
            checkpoint(&outbox);
        }
        rows(&destination).len() == 5
    })
    .await;
    settle(&outbox).await;
    assert_eq!(rows(&destination), [1, 2, 3, 4, 5]);
    // The last of them may have had nothing left to lose.
    assert!((2..=3).contains(&outbox.status().retries.get()), "{}", outbox.status().retries.get());
    until("it says nothing any more", || outbox.status().last_error().is_none()).await;
}

#[tokio::test]
async fn after_a_crash_the_destination_says_what_is_left() {
    let destination = Arc::default();
    let mut first = outbox(&destination);
    first.push(batch(0, 3, &[1]));
    first.push(batch(3, 5, &[2]));
    checkpoint(&first);
    first.push(batch(7, 8, &[3]));
    // It has delivered two of three when it is killed.
    let held = first.capture();
    first.start();
    settle(&first).await;
    drop(first);
    let second = restored(&destination, &held);
    settle(&second).await;
    assert_eq!(rows(&destination), [1, 2, 3]);
}

#[tokio::test]
async fn what_came_since_a_restart_waits_for_a_checkpoint_that_allows_it() {
    let destination = Arc::new(Destination { is_away: AtomicBool::new(true), ..Destination::default() });
    let first = outbox(&destination);
    first.push(batch(0, 3, &[1]));
    let mut held = checkpoint(&first);
    drop(first);
    // Several lives of the server without the destination.
    for (life, to) in [4, 5, 6].into_iter().enumerate() {
        let outbox = restored(&destination, &held);
        outbox.push(batch(to - 1, to, &[to as i64]));
        until_retried(&outbox).await;
        held = checkpoint(&outbox);
        assert_eq!(outbox.shared.queue().written.perhaps, Epoch(3), "life {life}");
    }
    destination.is_away.store(false, Ordering::Relaxed);
    let outbox = restored(&destination, &held);
    until_verified(&outbox).await;
    settle(&outbox).await;
    assert_eq!(rows(&destination), [1], "what was allowed before");
    assert!(outbox.is_stale(), "a checkpoint would allow more");
    checkpoint(&outbox);
    settle(&outbox).await;
    assert_eq!(rows(&destination), [1, 4, 5, 6]);
}

/// A copy goes on sealing epochs although it may not write, and is restarted; the destination stays ahead of it.
#[tokio::test]
async fn an_old_copy_writes_nothing_after_any_number_of_restarts() {
    let destination: Arc<Destination> = Arc::default();
    let mut original = outbox(&destination);
    original.start();
    original.push(batch(0, 5, &[1]));
    let mut copied = checkpoint(&original);
    settle(&original).await;
    for to in [6, 9] {
        original.push(batch(to - 1, to, &[2]));
        checkpoint(&original);
        settle(&original).await;
    }
    drop(original);
    for to in [7, 11, 15] {
        let copy = restored(&destination, &copied);
        copy.push(batch(to - 1, to, &[7]));
        until_retried(&copy).await;
        assert_eq!(rows(&destination), [1, 2, 2]);
        let error = copy.status().last_error().expect("it says why");
        let expected = "it has this sink's epoch 9, but this server wrote no more than 5";
        assert!(error.contains(expected) && error.contains("drop the sink and create it again"), "{error}");
        copied = checkpoint(&copy);
    }
    // Within a change that would have to be torn apart.
    let mut torn = outbox(&destination);
    torn.push(batch(8, 12, &[7]));
    checkpoint(&torn);
    torn.shared.known.store(12, Ordering::Relaxed);
    torn.start();
    until_retried(&torn).await;
    assert_eq!(rows(&destination), [1, 2, 2]);
    let error = torn.status().last_error().expect("it says why");
    assert!(error.contains("stands at epoch 9, within the change from 8 to 12"), "{error}");
}

/// A destination that is restored from its backup lacks what it once had: going on would leave that out.
#[tokio::test]
async fn a_destination_that_has_gone_back_gets_nothing() {
    let destination: Arc<Destination> = Arc::default();
    let mut outbox = outbox(&destination);
    outbox.start();
    for to in [2, 4] {
        outbox.push(batch(to - 1, to, &[to as i64]));
        checkpoint(&outbox);
        settle(&outbox).await;
    }
    let mut held = checkpoint(&outbox);
    drop(outbox);
    *destination.state.lock().unwrap() = (vec![2], Epoch(2));
    for to in [6, 8] {
        let outbox = restored(&destination, &held);
        outbox.push(batch(to - 1, to, &[to as i64]));
        until_retried(&outbox).await;
        assert_eq!(rows(&destination), [2]);
        let error = outbox.status().last_error().expect("it says why");
        assert!(error.contains("epoch 2, but it had 4 before. It has gone back"), "{error}");
        held = checkpoint(&outbox);
    }
    // Once it is where it was, all goes on.
    *destination.state.lock().unwrap() = (vec![2, 4], Epoch(4));
    let outbox = restored(&destination, &held);
    until_verified(&outbox).await;
    checkpoint(&outbox);
    settle(&outbox).await;
    assert_eq!(rows(&destination), [2, 4, 6, 8]);
}

#[tokio::test]
async fn a_writer_gathers_until_it_is_worth_it() {
    let destination: Arc<Destination> = Arc::default();
    destination.gathers.store(true, Ordering::Relaxed);
    let mut outbox = outbox(&destination);
    outbox.start();
    let status = outbox.status();
    for to in 1..=2 {
        outbox.push(batch(to - 1, to, &[to as i64]));
        checkpoint(&outbox);
    }
    until("the writer has both", || status.gathered_rows() == 2).await;
    assert_eq!((rows(&destination), status.pending_rows()), (Vec::new(), 2));
    // What is gathered only is in the next checkpoint still.
    let held = checkpoint(&outbox);
    outbox.push(batch(2, 3, &[3]));
    checkpoint(&outbox);
    until("a third is enough", || status.pending_rows() == 0).await;
    assert_eq!((rows(&destination), status.gathered_rows()), (vec![1, 2, 3], 0));
    drop(outbox);
    // Nothing is doubled by a life that begins before.
    destination.state.lock().unwrap().0.truncate(0);
    destination.state.lock().unwrap().1 = Epoch(0);
    let outbox = restored(&destination, &held);
    until("the writer has both again", || outbox.status().gathered_rows() == 2).await;
    assert_eq!(rows(&destination), Vec::<i64>::new());
    outbox.status().end();
    until("the end lets them go", || outbox.status().pending_rows() == 0).await;
    assert_eq!(rows(&destination), [1, 2]);
}

/// What waits while the destination is away is in few segments, and not in memory.
#[tokio::test]
async fn a_long_queue_lies_in_checkpoints() {
    let destination = Arc::default();
    let first = outbox(&destination);
    let mut written = BTreeMap::new();
    for to in 1..=200u64 {
        let rows: Vec<i64> = (0..1000).map(|n| to as i64 * 1000 + n).collect();
        first.push(batch(to - 1, to, &rows));
        written = checkpoint(&first);
    }
    assert!(written.len() < 20, "{} blobs", written.len());
    let memory_rows = first.shared.queue().memory_rows();
    assert!(memory_rows <= FLUSH_ROWS, "{memory_rows} rows in memory");
    assert_eq!(first.status().pending_rows(), 200_000);
    assert!(first.status().pending_bytes() > 200_000 * 8);
    let age = first.status().pending_for().expect("something waits");

    // A few of them arrive, then it is killed.
    first.shared.remove(3).unwrap();
    let held = first.capture();
    assert_eq!(held.len(), written.len(), "nothing is written again");
    let mut second = outbox(&destination);
    second.restore(&held, Epoch(200)).unwrap();
    assert_eq!(second.status().pending_rows(), 197_000);
    assert_eq!(second.shared.queue().memory_rows(), 0);
    assert!(second.status().pending_for().is_some_and(|waited| waited + Duration::from_secs(1) > age));
    destination.state.lock().unwrap().1 = Epoch(3);
    second.start();
    settle(&second).await;
    assert_eq!(rows(&destination), (4000..201_000).collect::<Vec<i64>>());
    assert_eq!(second.status().pending_bytes(), 0);
    assert_eq!(second.status().pending_for(), None);
}

#[tokio::test]
async fn an_earlier_build_s_checkpoint_is_read() {
    let mut bytes = Vec::new();
    for batch in [batch(0, 3, &[1, 2]), batch(3, 4, &[3])] {
        let ipc = encode_batch(batch.delta.batch());
        for number in [batch.from.0, batch.to.0, ipc.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(ipc);
    }
    for (bytes, expected) in [(Bytes::from(bytes), vec![1, 2, 3]), (Bytes::new(), vec![])] {
        let destination = Arc::default();
        let mut outbox = outbox(&destination);
        outbox.restore(&BTreeMap::from([(String::new(), bytes)]), Epoch(4)).unwrap();
        outbox.start();
        until_verified(&outbox).await;
        settle(&outbox).await;
        assert_eq!(rows(&destination), expected);
    }
    for (name, bytes) in [("", &[1; 30][..]), ("/head", &[0; 15])] {
        let blobs = BTreeMap::from([(name.to_owned(), Bytes::copy_from_slice(bytes))]);
        assert!(outbox(&Arc::default()).restore(&blobs, Epoch(4)).is_err(), "{name}");
    }
}
