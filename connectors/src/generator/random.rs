//! Random numbers by position: the draw for a field of an event is a function of the seed, the
//! event's number and the field, so that any event can be made without those before it.
//!
//! The mixing function is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose output at
//! step `i` is by construction a function of `seed + i * GAMMA`.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The random numbers of one event.
#[derive(Debug, Clone, Copy)]
pub struct Draws(u64);

impl Draws {
    /// Those of event number `event` of the stream with `seed`.
    pub fn of(seed: u64, event: u64) -> Draws {
        Draws(mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(event.wrapping_mul(GAMMA))))
    }

    /// The number for one field.
    pub fn field(self, field: u64) -> Draw {
        // Another odd constant than GAMMA: otherwise field 1 of an event were field 0 of the next.
        Draw(mix(self.0.wrapping_add(field.wrapping_mul(0xd134_2543_de82_ef95))))
    }
}

/// Sixty-four random bits, used up from the top.
#[derive(Debug, Clone, Copy)]
pub struct Draw(u64);

impl Draw {
    /// A number below `bound`.
    pub fn below(self, bound: u64) -> u64 {
        // Lemire's multiplication; the bias of 2^-64 * bound does not matter here.
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }

    /// Takes a number below `bound` and leaves what is left of the draw for another.
    ///
    /// The bounds of one draw multiplied must stay far below 2^64.
    pub fn take(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.0) * u128::from(bound);
        self.0 = product as u64;
        (product >> 64) as u64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
