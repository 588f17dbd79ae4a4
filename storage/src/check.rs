//! Reads everything that is durable below a root, and compares it with its checksums.
//!
//! A start looks at headers only; this is for whoever wants to know that all the rest is sound. Nothing is changed.

use std::collections::BTreeSet;

use crate::checkpoint::{Manifest, REMOVED, pack_name};
use crate::{Error, Log, Root, Run, RunId, versioned};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Manifests of checkpoints, all that are kept.
    pub n_checkpoints: usize,
    pub n_runs: usize,
    pub n_rows: usize,
    pub n_bytes: u64,
    /// Records of the table log.
    pub n_records: usize,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// Checks all checkpoints below `root`, and the table log.
pub async fn check(root: &Root) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    let names = root.list().await?;
    let owner = |name: &String| Some(name.split_once("/manifest/")?.0.to_owned());
    let owners: BTreeSet<String> = names.iter().filter_map(owner).collect();
    for owner in &owners {
        let known: BTreeSet<&str> =
            names.iter().filter_map(|name| name.strip_prefix(owner.as_str())?.strip_prefix('/')).collect();
        check_owner(&root.child(owner), &known, &mut checked).await?;
    }
    match Log::check(&root.child("log")).await {
        Ok(n_records) => checked.n_records = n_records,
        Err(error) => checked.note(&error),
    }
    Ok(checked)
}

async fn check_owner(root: &Root, names: &BTreeSet<&str>, checked: &mut Checked) -> Result<(), Error> {
    let mut seen: BTreeSet<RunId> = BTreeSet::new();
    for name in names.iter().filter(|name| name.starts_with("manifest/")) {
        let path = root.display(name);
        let Some(content) = root.get(name).await?.map(versioned::content) else { continue };
        if content.as_ref() == REMOVED {
            continue;
        }
        let mut missing = Vec::new();
        let manifest = match Manifest::parse(&path, &content) {
            Ok(manifest) => manifest,
            Err(error) => {
                checked.note(&error);
                continue;
            }
        };
        checked.n_checkpoints += 1;
        for pack in manifest.packs() {
            let name = pack_name(pack);
            let path = root.display(&name);
            let Some(file) = root.map(&name).await? else {
                missing.push(format!("\"{path}\" does not exist, but a checkpoint needs it"));
                continue;
            };
            let of_pack = |id: &&RunId| id.len > 0 && id.pack == pack;
            let slice = |id: &RunId| {
                let end = id.offset.checked_add(id.len).filter(|end| *end <= file.len() as u64)?;
                Some(file.slice(id.offset as usize..end as usize))
            };
            for id in manifest.runs.values().flatten().filter(of_pack) {
                if !seen.insert(*id) {
                    continue;
                }
                match slice(id).map(|content| Run::check(&path, &content)) {
                    Some(Ok(n_rows)) => {
                        checked.n_runs += 1;
                        checked.n_rows += n_rows;
                        checked.n_bytes += id.len;
                    }
                    Some(Err(error)) => checked.note(&error),
                    None => checked.problems.push(format!("\"{path}\" is shorter than a checkpoint says")),
                }
            }
            for id in manifest.blobs.values().filter(of_pack) {
                if slice(id).is_none() {
                    checked.problems.push(format!("\"{path}\" is shorter than a checkpoint says"));
                }
            }
        }
        // A server that runs removes the oldest manifest, and then what only that one named.
        if !missing.is_empty() && root.get(name).await?.is_some() {
            checked.problems.append(&mut missing);
        }
    }
    Ok(())
}

impl Checked {
    fn note(&mut self, error: &Error) {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(&format!(": {source}"));
        }
        self.problems.push(text);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Checkpoint, CheckpointStore, RunBuilder};

    async fn write(directory: &Path) -> Root {
        let root = Root::local(directory).unwrap();
        let (mut store, _) = CheckpointStore::open(root.child("dataflows/3")).await.unwrap();
        let mut checkpoint = Checkpoint::default();
        for n in 0..5 {
            let mut builder = RunBuilder::with_capacity(0, 0);
            (0..10).for_each(|row| builder.push(format!("{n} {row}").as_bytes(), 1 + n));
            checkpoint.runs.entry("x".into()).or_default().push(builder.finish());
            store.write(&checkpoint).await.unwrap();
        }
        root
    }

    #[tokio::test]
    async fn sound_directory_is_sound() {
        let directory = tempfile::tempdir().unwrap();
        let root = write(directory.path()).await;
        let checked = check(&root).await.unwrap();
        assert_eq!((checked.n_checkpoints, checked.n_runs, checked.n_rows), (3, 5, 50));
        assert_eq!(checked.problems, Vec::<String>::new());
    }

    #[tokio::test]
    async fn every_kind_of_damage_is_found() {
        let damage = |change: fn(&Path)| async move {
            let directory = tempfile::tempdir().unwrap();
            let root = write(directory.path()).await;
            change(&directory.path().join("dataflows/3"));
            check(&root).await.unwrap().problems
        };
        let pack = "packs/00000000000000000002";
        let problems =
            damage(|dir| std::fs::remove_file(dir.join("packs/00000000000000000002")).unwrap()).await;
        assert!(problems[0].contains(pack) && problems[0].contains("does not exist"), "{problems:?}");
        let problems = damage(|dir| {
            let path = dir.join("packs/00000000000000000002");
            let mut content = std::fs::read(&path).unwrap();
            *content.last_mut().unwrap() ^= 1;
            std::fs::write(path, content).unwrap();
        });
        let problems = problems.await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("checksum"), "{problems:?}");
        let problems = damage(|dir| {
            let path = dir.join("packs/00000000000000000002");
            let content = std::fs::read(&path).unwrap();
            std::fs::write(path, &content[..content.len() - 1]).unwrap();
        });
        assert!(problems.await[0].contains("shorter"));
        let problems = damage(|dir| {
            std::fs::write(dir.join("manifest/00000000000000000005"), "{").unwrap();
        });
        assert!(problems.await[0].contains("damaged"));
    }
}
