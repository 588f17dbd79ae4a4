//! One store under one access pattern, measured: `benches/stores/run` has all of them take turns.
//!
//! ```text
//! tidemill-stores run      --store S --pattern P --directory D …   fills it, lets it take steps and checkpoints
//! tidemill-stores restart  --store S --pattern P --directory D …   another process goes on from the last checkpoint
//! ```
//!
//! What is found is checked: all rows at the end against what the steps should have made of them, in order and without
//! repetition; what snapshots show while steps go on; what a restarted process finds. What was looked up is in the output
//! as one hash, to be compared with that of `--store model`. Each prints one line of JSON.

mod measure;
mod stores;
mod workload;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use measure::{Spent, bytes_written, disk_bytes, evict, forget_peak, memory, process_cpu, thread_cpu};
use stores::{Setting, View};
use workload::{Costs, KEY_BYTES, Pattern, PointReads, Sum, Workload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of the first fill that come at once.
const LOAD_ROWS: usize = 20_000;
/// Of the look-up after a restart.
const FIRST_KEYS: usize = 10_000;
/// Changes of a hundredth of the rows, each with a checkpoint.
const N_CHECKPOINTS: u64 = 5;
/// Point reads of the view, and how often as many are made.
const N_POINT_READS: usize = 200;
const POINT_READ_PAUSE: Duration = Duration::from_millis(10);
/// A process that waits, for a disk or for a core, ends as well.
const WALL_FACTOR_MAX: f64 = 5.0;
/// The step of which a snapshot is scanned.
const SCANNED_STEP: u64 = 2;

struct Options {
    store: String,
    pattern: Pattern,
    directory: PathBuf,
    n_rows: usize,
    n_batch: usize,
    n_steps_max: u64,
    /// CPU time of the steps at most: other work on the machine makes no difference to how far a store gets.
    seconds: f64,
    limit: Option<usize>,
    seed: u64,
    evict: bool,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Options {
        let mut given = HashMap::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((&word, "1"));
            given.insert(name.trim_start_matches('-').to_owned(), value.to_owned());
        }
        let mut take = |name: &str, default: &str| given.remove(name).unwrap_or(default.to_owned());
        let number = |text: String| text.parse::<u64>().expect("a number");
        let limit = number(take("limit", "0")) as usize;
        let options = Options {
            store: take("store", "tidemill"),
            pattern: Pattern::named(&take("pattern", "aggregate")),
            directory: take("directory", "").into(),
            n_rows: number(take("rows", "1000000")) as usize,
            n_batch: number(take("batch", "10000")) as usize,
            n_steps_max: number(take("steps", "50")),
            seconds: take("seconds", "5").parse().expect("a number"),
            limit: (limit > 0).then_some(limit),
            seed: number(take("seed", "1")),
            evict: take("evict", "0") == "1",
        };
        assert!(given.is_empty(), "unknown options: {given:?}");
        options
    }

    fn setting<'a>(&'a self, workload: &Workload) -> Setting<'a> {
        Setting {
            directory: &self.directory,
            limit: self.limit,
            layout: workload.layout().clone(),
            n_key_bytes: KEY_BYTES,
        }
    }
}

fn main() {
    let began = Instant::now();
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let options = Options::parse(words);
    let result = match command.as_str() {
        "run" => run(&options),
        "restart" => restart(&options, began),
        _ => panic!("run or restart, with options such as --store=tidemill"),
    };
    println!("{result}");
    // As by a crash: what no checkpoint made durable is lost, and nobody tidies up.
    std::process::exit(0);
}

fn run(options: &Options) -> Value {
    let mut workload = Workload::new(options.pattern, options.seed, options.n_rows);
    forget_peak();
    let before = memory();
    let mut store = stores::open(&options.store, &options.setting(&workload));

    let (mut loaded, cpu) = (Costs::default(), CpuOfStore::begin());
    workload.load(&mut *store, LOAD_ROWS, &mut loaded);
    store.checkpoint(0);
    let load_cpu = cpu.end(&loaded, Duration::ZERO);
    let load_written = bytes_written();

    let (mut costs, cpu, began) = (Costs::default(), CpuOfStore::begin(), Instant::now());
    let mut step = 0;
    let mut trace = Vec::new();
    let readers = Readers::default();
    let mut read = Read::default();
    thread::scope(|scope| {
        let (to_scan, scanned) = channel::<(Box<dyn View>, Sum)>();
        let threads = (options.pattern == Pattern::View && options.store != "model").then(|| {
            let scanning = scope.spawn(move || scanned.recv().ok().map(|(view, sum)| scan(view, sum)));
            (scanning, scope.spawn(|| readers.read()))
        });
        let goes_on = |step| {
            let is_in_time = (process_cpu() - cpu.process).as_secs_f64() < options.seconds
                && began.elapsed().as_secs_f64() < WALL_FACTOR_MAX * options.seconds;
            step < options.n_steps_max && (is_in_time || step < SCANNED_STEP + 1)
        };
        while goes_on(step) {
            step += 1;
            workload.step(&mut *store, step, options.n_batch, &mut costs);
            if threads.is_some() {
                let reads = workload.point_reads(step, N_POINT_READS);
                readers.show(store.snapshot(), reads);
                if step == SCANNED_STEP {
                    to_scan.send((store.snapshot(), workload.contents)).expect("somebody waits for it");
                }
            }
            if options.store == "model" {
                trace.push(json!([workload.answers.text(), workload.contents.text()]));
            }
        }
        readers.are_done.store(true, Ordering::Relaxed);
        drop(to_scan);
        if let Some((scanning, reading)) = threads {
            read = reading.join().expect("what is read is right");
            read.scan = scanning.join().expect("what is scanned is right").expect("there were enough steps");
        }
    });
    // Compaction that goes on is a part of what steps cost, but not what a scan does after them.
    let steps_cpu = cpu.end(&costs, read.cpu + read.scan.cpu);
    let steps_seconds = began.elapsed().as_secs_f64();
    let steps_written = bytes_written() - load_written;
    let (n_steps, answers, contents) = (step, workload.answers, workload.contents);

    store.checkpoint(step);
    let mut checkpoints = Vec::new();
    for _ in 0..N_CHECKPOINTS {
        step += 1;
        let before = bytes_written();
        workload.step(&mut *store, step, options.n_rows / 100, &mut Costs::default());
        let mut spent = Spent::default();
        spent.by(|| store.checkpoint(step));
        checkpoints.push(json!({"ms": millis(spent.wall), "bytes": bytes_written() - before}));
    }
    thread::sleep(Duration::from_millis(500));
    let after = memory();
    let (first_lookup, first_answers) = workload.first_lookup(&mut *store, FIRST_KEYS);
    let disk = disk_bytes(&options.directory);
    if options.store != "model" {
        let mut view = store.snapshot();
        let mut found = Sum::default();
        each_in_order(&mut *view, |key, value| found.add(key, value));
        assert_eq!(found, workload.contents, "{} holds other rows than it should", options.store);
    }
    json!({
        "load": {
            "rows": options.n_rows,
            "seconds": loaded.apply.wall.as_secs_f64(),
            "cpu_seconds": load_cpu,
            "bytes_written": load_written,
        },
        "steps": {
            "n": n_steps,
            "seconds": steps_seconds,
            "cpu_seconds": steps_cpu,
            "bytes_written": steps_written,
            "keys": costs.n_keys,
            "found": costs.n_found,
            "applied": costs.n_applied,
            "lookup_seconds": costs.lookup.wall.as_secs_f64(),
            "lookup_cpu_seconds": costs.lookup.cpu.as_secs_f64(),
            "apply_seconds": costs.apply.wall.as_secs_f64(),
            "apply_cpu_seconds": costs.apply.cpu.as_secs_f64(),
        },
        "reads": read.json(),
        "checkpoints": checkpoints,
        "memory": {
            "peak": after.peak.saturating_sub(before.resident),
            "steady": after.resident.saturating_sub(before.resident),
            "anonymous": after.anonymous.saturating_sub(before.anonymous),
            "held": store.held(),
        },
        "disk_bytes": disk,
        "rows": workload.contents.n,
        "warm_lookup_ms": millis(first_lookup.wall),
        "answers": answers.text(),
        "contents": contents.text(),
        "trace": trace,
        "last_step": step,
        "last_answers": first_answers.text(),
        "last_contents": workload.contents.text(),
    })
}

fn restart(options: &Options, mut began: Instant) -> Value {
    let mut workload = Workload::new(options.pattern, options.seed, options.n_rows);
    if options.evict {
        evict(&options.directory);
        began = Instant::now();
    }
    let mut store = stores::open(&options.store, &options.setting(&workload));
    let opened = began.elapsed();
    let (_, answers) = workload.first_lookup(&mut *store, FIRST_KEYS);
    let (answered, cpu, memory) = (began.elapsed(), process_cpu(), memory());
    let step = store.found_step();
    let mut contents = Sum::default();
    each_in_order(&mut *store.snapshot(), |key, value| contents.add(key, value));
    json!({
        "open_ms": millis(opened),
        "answer_ms": millis(answered),
        "cpu_ms": millis(cpu),
        "resident": memory.resident,
        "last_step": step,
        "last_answers": answers.text(),
        "last_contents": contents.text(),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// All rows, which must ascend.
fn each_in_order(view: &mut dyn View, mut found: impl FnMut(&[u8], &[u8])) {
    let mut last: Vec<u8> = Vec::new();
    view.scan(&mut |key, value| {
        assert!(last.as_slice() < key, "rows come in order, and once");
        last.clear();
        last.extend_from_slice(key);
        found(key, value);
    });
}

/// CPU time of all threads, without what makes the workload.
struct CpuOfStore {
    process: Duration,
    thread: Duration,
}

impl CpuOfStore {
    fn begin() -> CpuOfStore {
        CpuOfStore { process: process_cpu(), thread: thread_cpu() }
    }

    fn end(self, costs: &Costs, of_others: Duration) -> f64 {
        let own = thread_cpu() - self.thread;
        let workload = own.saturating_sub(costs.lookup.cpu + costs.apply.cpu);
        (process_cpu() - self.process).saturating_sub(workload + of_others).as_secs_f64()
    }
}

/// Who reads a view while it changes.
#[derive(Default)]
struct Readers {
    newest: Mutex<Option<(Box<dyn View>, PointReads)>>,
    are_done: AtomicBool,
}

#[derive(Default)]
struct Read {
    n: u64,
    wall: Duration,
    cpu: Duration,
    slowest: Duration,
    scan: Scanned,
}

#[derive(Default)]
struct Scanned {
    n: u64,
    wall: Duration,
    cpu: Duration,
}

impl Readers {
    fn show(&self, view: Box<dyn View>, reads: PointReads) {
        *self.newest.lock().unwrap() = Some((view, reads));
    }

    /// Reads rows one by one of the newest snapshot that there is, a certain number a second.
    fn read(&self) -> Read {
        let mut read = Read::default();
        while !self.are_done.load(Ordering::Relaxed) {
            let Some((mut view, reads)) = self.newest.lock().unwrap().take() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let (began, cpu) = (Instant::now(), thread_cpu());
            for (idx, key) in reads.keys.iter().enumerate() {
                let before = Instant::now();
                let mut is_there = false;
                view.get(key.data(), &mut |value| {
                    is_there = true;
                    assert!(reads.is_right(idx, Some(value)), "a snapshot shows the rows of its moment");
                });
                assert!(is_there || reads.is_right(idx, None), "a snapshot shows the rows of its moment");
                read.slowest = read.slowest.max(before.elapsed());
            }
            read.n += reads.keys.num_rows() as u64;
            read.wall += began.elapsed();
            read.cpu += thread_cpu() - cpu;
            drop(view);
            thread::sleep(POINT_READ_PAUSE);
        }
        read
    }
}

fn scan(mut view: Box<dyn View>, expected: Sum) -> Scanned {
    let (began, cpu) = (Instant::now(), thread_cpu());
    let mut found = Sum::default();
    each_in_order(&mut *view, |key, value| found.add(key, value));
    assert_eq!(found, expected, "a snapshot shows the rows of its moment");
    Scanned { n: found.n, wall: began.elapsed(), cpu: thread_cpu() - cpu }
}

impl Read {
    fn json(&self) -> Value {
        json!({
            "n": self.n,
            "seconds": self.wall.as_secs_f64(),
            "slowest_ms": millis(self.slowest),
            "scanned": self.scan.n,
            "scan_seconds": self.scan.wall.as_secs_f64(),
        })
    }
}
