//! Guessing passwords is made slow.
//!
//! After a few failures from an address, each further attempt from there has to wait, longer with each failure, and
//! attempts wait in turn, so that many connections guess no faster than one. What is counted is forgotten with time. An address is
//! what is counted by, and not a role, so that nobody can lock out a role from elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures that cost nothing: people mistype.
const N_FREE: u32 = 3;
const DELAY_MIN: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(8);
/// Who would have to wait longer is turned away.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// One failure is forgotten each.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Addresses remembered; the one whose last failure is longest ago gives way.
const N_ADDRESSES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    addresses: Mutex<HashMap<IpAddr, Record>>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    n_failures: u32,
    last: Instant,
    /// When the next attempt may be made.
    next: Instant,
}

impl Record {
    fn n_failures(&self, now: Instant) -> u32 {
        let n_forgotten = now.duration_since(self.last).as_secs() / FORGOTTEN_AFTER.as_secs();
        self.n_failures.saturating_sub(u32::try_from(n_forgotten).unwrap_or(u32::MAX))
    }
}

impl Throttle {
    /// How long an attempt from an address has to wait; `None` for longer than it may. The attempt has its turn with that.
    pub(crate) fn wait(&self, address: IpAddr) -> Option<Duration> {
        self.wait_at(address, Instant::now())
    }

    fn wait_at(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let address = network(address);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = addresses.get_mut(&address) else { return Some(Duration::ZERO) };
        let n_failures = record.n_failures(now);
        if n_failures < N_FREE {
            return Some(Duration::ZERO);
        }
        let factor = 1u32 << (n_failures - N_FREE).min(10);
        let delay = DELAY_MIN.saturating_mul(factor).min(DELAY_MAX);
        let at = record.next.max(now) + delay;
        let wait = at - now;
        if wait > WAIT_MAX {
            return None;
        }
        record.next = at;
        Some(wait)
    }

    pub(crate) fn failed(&self, address: IpAddr) {
        self.failed_at(address, Instant::now());
    }

    fn failed_at(&self, address: IpAddr, now: Instant) {
        let address = network(address);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= N_ADDRESSES_MAX && !addresses.contains_key(&address) {
            let oldest = addresses.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                addresses.remove(&oldest);
            }
        }
        let record = addresses.entry(address).or_insert(Record { n_failures: 0, last: now, next: now });
        record.n_failures = record.n_failures(now).saturating_add(1);
        record.last = now;
    }
}

/// Who has one address of version 6 has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn failures_cost_time_and_are_forgotten() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..N_FREE {
            assert_eq!(throttle.wait_at(HERE, now), Some(Duration::ZERO));
            throttle.failed_at(HERE, now);
        }
        assert_eq!(throttle.wait_at(HERE, now), Some(DELAY_MIN));
        assert_eq!(
            throttle.wait_at(HERE, now),
            Some(DELAY_MIN * 2),
            "those that come at once wait for each other"
        );
        assert_eq!(throttle.wait_at(THERE, now), Some(Duration::ZERO), "others do not");
        for _ in 0..20 {
            throttle.failed_at(HERE, now);
        }
        assert!(throttle.wait_at(HERE, now).unwrap() >= DELAY_MAX);
        while throttle.wait_at(HERE, now).is_some() {}
        assert_eq!(throttle.wait_at(HERE, now + FORGOTTEN_AFTER * 25), Some(Duration::ZERO));
    }

    #[test]
    fn a_network_counts_as_one() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for host in 1..=N_FREE as u16 {
            throttle.failed_at(IpAddr::V6([1, 2, 3, 4, 0, 0, 0, host].into()), now);
        }
        assert_eq!(throttle.wait_at(IpAddr::V6([1, 2, 3, 4, 9, 9, 9, 9].into()), now), Some(DELAY_MIN));
        assert_eq!(throttle.wait_at(IpAddr::V6([1, 2, 3, 5, 0, 0, 0, 1].into()), now), Some(Duration::ZERO));
    }

    #[test]
    fn memory_of_addresses_has_a_bound() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..N_ADDRESSES_MAX as u32 + 10 {
            throttle.failed_at(IpAddr::V4(number.into()), now);
        }
        assert_eq!(throttle.addresses.lock().unwrap().len(), N_ADDRESSES_MAX);
    }
}
