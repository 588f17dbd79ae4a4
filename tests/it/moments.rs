//! Moments for tests that end something while it runs: others with each seed, and the same again with the same one.

/// A number out of the environment, such as `TIDEMILL_SEED`.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A small generator of moments.
pub struct Moments(pub u64);

impl Moments {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}
