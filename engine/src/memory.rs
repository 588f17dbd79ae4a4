//! How the memory for state is shared out.
//!
//! Every pipeline, sink and table has a budget. Those that say how much they may take have that; the others share
//! what is left of the whole evenly, anew whenever one comes or goes. A budget bounds what its state takes on the
//! heap; what is over it lies in mapped files, where the kernel keeps what is in use.

use std::sync::{Arc, Mutex, Weak};

use tidemill_storage::{Budget, Scratch};

/// Nobody's share is smaller than this, however many there are: with less, each step would go to disk.
const SHARE_MIN: usize = 8 << 20;

/// The memory of everything that keeps state.
#[derive(Debug)]
pub(crate) struct Memory {
    scratch: Arc<Scratch>,
    total: usize,
    members: Mutex<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    budget: Weak<Budget>,
    asked: Option<usize>,
}

impl Memory {
    pub fn new(scratch: Arc<Scratch>, total: usize) -> Memory {
        Memory { scratch, total, members: Mutex::default() }
    }

    /// A budget of `asked` bytes, or of a fair share.
    pub fn budget(&self, asked: Option<usize>) -> Arc<Budget> {
        let budget = Budget::new(self.scratch.clone(), asked.unwrap_or(self.total));
        let mut members = self.members.lock().expect("nobody panics while holding it");
        members.push(Member { budget: Arc::downgrade(&budget), asked });
        share(self.total, &mut members);
        budget
    }

    /// Lets a budget have `asked` bytes from now on, or a fair share.
    pub fn ask(&self, budget: &Arc<Budget>, asked: Option<usize>) {
        let mut members = self.members.lock().expect("nobody panics while holding it");
        for member in members.iter_mut().filter(|member| member.budget.as_ptr() == Arc::as_ptr(budget)) {
            member.asked = asked;
        }
        if let Some(asked) = asked {
            budget.set_limit(asked);
        }
        share(self.total, &mut members);
    }

    /// Gives everyone their share anew: somebody may be gone.
    pub fn share(&self) {
        share(self.total, &mut self.members.lock().expect("nobody panics while holding it"));
    }
}

fn share(total: usize, members: &mut Vec<Member>) {
    members.retain(|member| member.budget.strong_count() > 0);
    let asked: usize = members.iter().filter_map(|member| member.asked).sum();
    let n_others = members.iter().filter(|member| member.asked.is_none()).count();
    let each = (total.saturating_sub(asked) / n_others.max(1)).max(SHARE_MIN.min(total));
    for member in members.iter().filter(|member| member.asked.is_none()) {
        if let Some(budget) = member.budget.upgrade() {
            budget.set_limit(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_shared() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(Arc::new(Scratch::open(directory.path()).unwrap()), 100 << 20);
        let first = memory.budget(None);
        assert_eq!(first.limit(), 100 << 20);
        let fixed = memory.budget(Some(40 << 20));
        let second = memory.budget(None);
        assert_eq!([first.limit(), fixed.limit(), second.limit()], [30 << 20, 40 << 20, 30 << 20]);
        drop((fixed, first));
        memory.share();
        assert_eq!(second.limit(), 100 << 20);
        memory.ask(&second, Some(10 << 20));
        let third = memory.budget(None);
        assert_eq!([second.limit(), third.limit()], [10 << 20, 90 << 20]);
        memory.ask(&second, None);
        assert_eq!([second.limit(), third.limit()], [50 << 20, 50 << 20]);
        drop(third);
        let many: Vec<_> = (0..99).map(|_| memory.budget(None)).collect();
        assert_eq!(many[0].limit(), SHARE_MIN);
    }
}
