//! A copy of a root, whole and consistent although its server goes on.
//!
//! A pack never changes, so copying all of them takes as long as it likes. What has to fit together is small: the newest manifest
//! of each dataflow and table, the records of the table log behind them, and the catalog. It is read in passes, each of
//! which first copies what packs the one before it had not seen, until one finds that everything was there and that no
//! definition changed meanwhile:
//!
//! - The log is read before the manifests and after them. What the manifests need was there before, or was written
//!   meanwhile; the second is known to be complete if no number is missing between the two readings.
//! - A manifest holds no write that was not in the log before it, and the log is read last.
//!
//! The catalog is written last of all, and a root with state but without a catalog is refused. So a copy that broke off
//! is never taken for one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::checkpoint::{Manifest, REMOVED, pack_name};
use crate::log::{self, LogRecord};
use crate::{Error, Root, VersionedObject, versioned};

/// How often a copy begins anew, because definitions keep changing.
const N_PASSES_MAX: usize = 100;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    pub n_checkpoints: usize,
    pub n_bytes: u64,
    /// Records of the table log.
    pub n_records: usize,
}

/// What fits together.
struct Moment {
    catalog: Bytes,
    /// The content of the newest manifest of each owner.
    manifests: BTreeMap<String, Bytes>,
    records: Vec<LogRecord>,
}

/// Copies all that is durable below `from` to `to`, where there must be nothing yet.
pub async fn copy(from: &Root, to: &Root) -> Result<Copied, Error> {
    let is_ours = |name: &String| {
        ["catalog/", "dataflows/", "tables/", "log/"].iter().any(|part| name.starts_with(part))
    };
    if to.list().await?.iter().any(is_ours) {
        return Err(Error::NotEmpty { root: to.display("") });
    }
    let mut copied = Copied::default();
    let mut packs = BTreeSet::new();
    let mut moment = None;
    for _ in 0..N_PASSES_MAX {
        moment = pass(from, to, &mut packs, &mut copied).await?;
        if moment.is_some() {
            break;
        }
    }
    let Some(moment) = moment else { return Err(Error::Unsteady { root: from.display("") }) };
    copied.n_checkpoints = moment.manifests.len();
    for (owner, content) in moment.manifests {
        to.child(&owner).put(&format!("manifest/{}", versioned::object_name(1)), content).await?;
    }
    copied.n_records = moment.records.len();
    log::write(&to.child("log"), &moment.records).await?;
    // Packs have the terms of their writers in their names, and terms have to go on from there.
    if let Some(newest) = from.child("writer").list().await?.pop()
        && let Some(claim) = from.child("writer").get(&newest).await?
    {
        to.child("writer").put(&newest, claim).await?;
    }
    to.child("catalog").put(&versioned::object_name(1), moment.catalog).await?;
    Ok(copied)
}

/// Copies packs; gives what fits together, if it does.
async fn pass(
    from: &Root,
    to: &Root,
    packs: &mut BTreeSet<(String, u64)>,
    copied: &mut Copied,
) -> Result<Option<Moment>, Error> {
    let (before, catalog) = VersionedObject::open(from.child("catalog")).await?;
    let Some(catalog) = catalog else {
        return Err(Error::Missing { what: "the catalog", root: from.display("") });
    };
    let mut segments = log::read(&from.child("log")).await?;
    let owners = owners(from).await?;
    let mut manifests = BTreeMap::new();
    for owner in &owners {
        let root = from.child(owner);
        let (_, content) = VersionedObject::open(root.child("manifest")).await?;
        let Some(content) = content.filter(|content| content.as_ref() != REMOVED) else { return Ok(None) };
        for pack in Manifest::parse(&root.display("manifest"), &content)?.packs() {
            if packs.contains(&(owner.clone(), pack)) {
                continue;
            }
            // A newer manifest does without it.
            let Some(file) = root.map(&pack_name(pack)).await? else { return Ok(None) };
            copied.n_bytes += file.len() as u64;
            to.child(owner).put(&pack_name(pack), file).await?;
            packs.insert((owner.clone(), pack));
        }
        manifests.insert(owner.clone(), content);
    }
    let later = log::read(&from.child("log")).await?;
    let last = segments.keys().last().copied();
    // In a file that was the last one, there is more by now. An object is what it was.
    let first_new = last.map(|last| if from.directory().is_some() { last } else { last + 1 });
    if let (Some(first), Some(last)) = (first_new, later.keys().last())
        && !(first..=*last).all(|number| later.contains_key(&number))
    {
        return Ok(None);
    }
    segments.extend(later);
    let (after, _) = VersionedObject::open(from.child("catalog")).await?;
    let is_steady = after.version() == before.version() && self::owners(from).await? == owners;
    let records = segments.into_values().flatten().collect();
    Ok(is_steady.then_some(Moment { catalog, manifests, records }))
}

async fn owners(from: &Root) -> Result<BTreeSet<String>, Error> {
    let names = from.list().await?;
    Ok(names.iter().filter_map(|name| Some(name.split_once("/manifest/")?.0.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tidemill_core::Epoch;

    use super::*;
    use crate::{Checkpoint, CheckpointStore, Log, Run, RunBuilder};

    fn run(row: String) -> Arc<Run> {
        let mut builder = RunBuilder::with_capacity(1, 8);
        builder.push(row.as_bytes(), 1);
        builder.finish()
    }

    /// A server that writes a number to the log and then into a checkpoint, again and again.
    async fn serve(root: Root, n_last: u64) {
        root.claim().await.unwrap();
        let (mut catalog, _) = VersionedObject::take_over(root.child("catalog")).await.unwrap();
        catalog.put("the catalog".into()).await.unwrap();
        let (log, _) = Log::open(&root.child("log")).await.unwrap();
        let (mut store, _) = CheckpointStore::open(root.child("tables/1")).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        for n in 1..=n_last {
            let epoch = Epoch(n);
            log.append(&[LogRecord { epoch, relation: 1, payload: n.to_string().into() }]).await.unwrap();
            if n % 3 == 0 {
                checkpoint.meta = json!({"epoch": n});
                checkpoint.runs.insert("rows".into(), vec![run(format!("until {n}"))]);
                store.write(&checkpoint).await.unwrap();
                log.trim(epoch);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn check(root: &Root) -> u64 {
        let (_, catalog) = VersionedObject::open(root.child("catalog")).await.unwrap();
        assert_eq!(catalog.as_deref(), Some(&b"the catalog"[..]));
        assert_eq!(crate::check(root).await.unwrap().problems, Vec::<String>::new());
        root.claim().await.unwrap();
        let (_, checkpoint) = CheckpointStore::open(root.child("tables/1")).await.unwrap();
        let checkpointed = checkpoint.map_or(0, |found| found.meta["epoch"].as_u64().unwrap());
        let (_, records) = Log::open(&root.child("log")).await.unwrap();
        let mut epochs: Vec<u64> = records.iter().map(|record| record.epoch.0).collect();
        epochs.retain(|epoch| *epoch > checkpointed);
        // No write between the checkpoint and the end of the log is missing.
        let last = epochs.last().copied().unwrap_or(checkpointed);
        assert_eq!(epochs, (checkpointed + 1..=last).collect::<Vec<_>>());
        last
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn copy_is_consistent_while_the_server_writes() {
        let directory = tempfile::tempdir().unwrap();
        let local = |name: &str| Root::local(&directory.path().join(name)).unwrap();
        for (from, targets) in [
            (local("a"), vec![local("b"), Root::memory(), local("c"), Root::memory()]),
            (Root::memory(), vec![Root::memory(), local("d"), Root::memory(), local("e")]),
        ] {
            let serving = tokio::spawn(serve(from.clone(), 300));
            while from.child("tables/1/manifest").list().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let mut last = 0;
            for to in &targets {
                let copied = copy(&from, to).await.unwrap();
                assert!(copied.n_checkpoints == 1 && copied.n_bytes > 0, "{copied:?}");
                let until = check(to).await;
                assert!(until >= last, "{until} after {last}");
                last = until;
            }
            serving.await.unwrap();
            let (to, back) = (Root::memory(), local(&format!("back {last}")));
            copy(&from, &to).await.unwrap();
            assert_eq!(check(&to).await, 300);
            copy(&to, &back).await.unwrap();
            assert_eq!(check(&back).await, 300);
            assert!(matches!(copy(&from, &back).await, Err(Error::NotEmpty { .. })));
        }
    }
}
