//! Which server writes to a root that several can reach.
//!
//! A directory has a lock, which the operating system keeps. In an object store the last who came has the root:
//!
//! ```text
//! <root>/writer/0…0n     the claim of the n-th server, its *term* being n; created only where it does not exist
//! ```
//!
//! A server claims before it reads anything. Then it *takes over* everything that is written by compare-and-swap
//! (the catalog, each manifest, the table log) by writing a version of its own behind the newest, and reads what was
//! before it. So whatever an older server writes afterwards meets a version that is there already, and the older
//! one looks at the claims and finds that it has lost the root. What it had made durable before, the newer one has read.
//!
//! Old versions are removed, and an older server that has slept for long could find its place free again. Hence a
//! version counts only after a look at the claims that follows the write: the newer server's claim is older than all
//! that it wrote, let alone removed. In the table log, where such a look would delay every INSERT, the objects that take over
//! stay instead.
//!
//! Nothing that another server needs is ever removed:
//! - A pack bears its writer's term in its number, so no two servers write the same one, and none removes packs of a
//!   later term.
//! - What an older server had not named before it was taken over, it never can. So what the manifests of that
//!   moment do not name is garbage for good.
//! - A server removes a pack after it has written a version without it and has looked at the claims. A newer server goes
//!   on from that version, or a later one.
//! - Everything of one owner is removed only behind a last version that says so, written like any other.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Root};

const FORMAT: u32 = 1;
/// How many claims stay. Of an older server than that nothing is heard any more.
const N_KEPT: u64 = 1000;

/// Who has claimed a root.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    format: u32,
    host: String,
    process: u32,
    /// In microseconds since 1970.
    since: u64,
}

impl Claim {
    fn of_this_process() -> Claim {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Claim {
            format: FORMAT,
            host: host.trim().to_owned(),
            process: std::process::id(),
            since: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64,
        }
    }
}

fn name(term: u64) -> String {
    format!("writer/{term:020}")
}

/// Claims `root`; gives the term.
pub(crate) async fn claim(root: &Root) -> Result<u64, Error> {
    let content: Bytes = serde_json::to_vec(&Claim::of_this_process()).expect("a claim is plain data").into();
    let terms = terms(root).await?;
    let mut term = terms.last().map_or(1, |newest| newest + 1);
    while !root.put_new(&name(term), content.clone()).await? {
        term += 1;
    }
    for old in terms.iter().filter(|old| *old + N_KEPT < term) {
        root.delete(&name(*old)).await?;
    }
    Ok(term)
}

async fn terms(root: &Root) -> Result<Vec<u64>, Error> {
    let names = root.child("writer").list().await?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Who came after `term`, if anybody has: in words.
pub(crate) async fn successor(root: &Root, term: u64) -> Result<Option<String>, Error> {
    let Some(content) = root.get(&name(term + 1)).await? else { return Ok(None) };
    // That somebody is there is certain; who it is may be written in a format of the future.
    Ok(Some(match serde_json::from_slice::<Claim>(&content) {
        Ok(Claim { host, process, .. }) => format!("process {process} on {host}"),
        Err(_) => "another version".into(),
    }))
}
