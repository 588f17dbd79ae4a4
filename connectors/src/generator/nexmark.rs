//! The events of the Nexmark benchmark (Tucker, Tufte, Papadimos and Maier, 2002), made column by
//! column.
//!
//! Proportions, hot keys, id arithmetic and value distributions are those of Apache Beam's
//! generator, which Flink's and everybody's Nexmark descends from, with three deviations:
//!
//! - an event is a function of seed and number (`random`), so that resuming costs nothing, and
//!   the columns that nobody reads are not made;
//! - ids never run ahead: a bid's auction and bidder and an auction's seller have been generated
//!   before it (Beam lets one in a hundred or so refer to the near future);
//! - long random strings are cut out of a fixed text instead of being drawn letter by letter.
//!
//! ```text
//! event number   0   1 2 3   4 … 49 | 50  51 52 53  54 … 99 | …
//! kind           P   A A A   B …  B | P   A  A  A   B  …  B | …
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::generator::config::{GeneratorConfig, Table};
use crate::generator::random::{Draw, Draws};

/// Events of one round of kinds.
pub const ROUND: u64 = 50;
const AUCTIONS: u64 = 3;
const FIRST_PERSON_ID: u64 = 1000;
const FIRST_AUCTION_ID: u64 = 1000;
const FIRST_CATEGORY_ID: u64 = 10;
const N_CATEGORIES: u64 = 5;
/// How many of the newest persons bid and sell.
const ACTIVE_PEOPLE: u64 = 1000;
/// How many of the newest auctions get bids.
const OPEN_AUCTIONS: u64 = 100;
/// The hot auction, bidder and seller change once in so many.
const HOT_SPAN: u64 = 100;
const N_CHANNELS: u64 = 10_000;

const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [(&str, &str); 10] = [
    ("Phoenix", "AZ"),
    ("Los Angeles", "CA"),
    ("San Francisco", "CA"),
    ("Boise", "ID"),
    ("Portland", "OR"),
    ("Bend", "OR"),
    ("Redmond", "WA"),
    ("Seattle", "WA"),
    ("Kent", "WA"),
    ("Cheyenne", "WY"),
];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// A column of one kind of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    PersonId,
    PersonName,
    EmailAddress,
    CreditCard,
    City,
    State,
    PersonExtra,
    AuctionId,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    Expires,
    Seller,
    Category,
    AuctionExtra,
    BidAuction,
    Bidder,
    Price,
    Channel,
    Url,
    BidExtra,
    DateTime,
}

/// The names of a kind's columns.
pub fn columns(table: Table) -> &'static [(&'static str, Column)] {
    match table {
        Table::Person => &[
            ("id", Column::PersonId),
            ("name", Column::PersonName),
            ("email_address", Column::EmailAddress),
            ("credit_card", Column::CreditCard),
            ("city", Column::City),
            ("state", Column::State),
            ("date_time", Column::DateTime),
            ("extra", Column::PersonExtra),
        ],
        Table::Auction => &[
            ("id", Column::AuctionId),
            ("item_name", Column::ItemName),
            ("description", Column::Description),
            ("initial_bid", Column::InitialBid),
            ("reserve", Column::Reserve),
            ("date_time", Column::DateTime),
            ("expires", Column::Expires),
            ("seller", Column::Seller),
            ("category", Column::Category),
            ("extra", Column::AuctionExtra),
        ],
        Table::Bid => &[
            ("auction", Column::BidAuction),
            ("bidder", Column::Bidder),
            ("price", Column::Price),
            ("channel", Column::Channel),
            ("url", Column::Url),
            ("date_time", Column::DateTime),
            ("extra", Column::BidExtra),
        ],
    }
}

/// The fields of a kind, all of them never NULL.
pub fn fields(table: Table) -> Fields {
    columns(table).iter().map(|(name, column)| Field::new(*name, column.data_type(), false)).collect()
}

impl Column {
    pub fn data_type(self) -> DataType {
        use Column::*;
        match self {
            DateTime | Expires => DataType::Timestamp(TimeUnit::Microsecond, None),
            PersonId | AuctionId | InitialBid | Reserve | Seller | Category | BidAuction | Bidder | Price => {
                DataType::Int64
            }
            PersonName | EmailAddress | CreditCard | City | State | PersonExtra | ItemName | Description
            | AuctionExtra | Channel | Url | BidExtra => DataType::Utf8,
        }
    }
}

/// Events of which the numbers are known, with their random draws.
#[derive(Debug, Default)]
pub struct Events {
    numbers: Vec<u64>,
    draws: Vec<Draws>,
}

impl Events {
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }
}

/// Makes events.
#[derive(Debug)]
pub struct Nexmark {
    seed: u64,
    start_micros: i64,
    event_rate: u64,
    hot_auction_ratio: u64,
    hot_bidder_ratio: u64,
    hot_seller_ratio: u64,
    /// Letters to cut strings from.
    letters: Vec<u8>,
    /// Letters and spaces to cut texts from.
    text: Vec<u8>,
    /// Prices from 100 to 100 million, evenly spread by their logarithm.
    prices: Vec<u32>,
    channels: Strings,
    urls: Strings,
}

/// Many strings in one buffer.
#[derive(Debug, Default)]
struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len() as u32);
    }

    fn get(&self, idx: usize) -> &[u8] {
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] as usize };
        &self.bytes[start..self.ends[idx] as usize]
    }
}

/// A power of two, so that a draw can be masked.
const POOL: usize = 1 << 14;
const POOL_OVERHANG: usize = 1 << 10;
const N_PRICE_STEPS: u64 = 4096;

impl Nexmark {
    pub fn new(config: &GeneratorConfig) -> Nexmark {
        // The pools are the same for every seed: what differs is where strings are cut from.
        let pool = |field: u64, space: bool| {
            let letter = |idx: usize| {
                let mut draw = Draws::of(0, idx as u64).field(field);
                if space && draw.take(13) == 0 { b' ' } else { b'a' + draw.take(26) as u8 }
            };
            (0..POOL + POOL_OVERHANG).map(letter).collect::<Vec<u8>>()
        };
        let step = |idx: u64| 10f64.powf(idx as f64 / N_PRICE_STEPS as f64 * 6.0) * 100.0;
        let (channels, urls) = channels();
        Nexmark {
            seed: config.seed,
            start_micros: config.start_time.0,
            event_rate: config.event_rate,
            hot_auction_ratio: config.hot_auction_ratio,
            hot_bidder_ratio: config.hot_bidder_ratio,
            hot_seller_ratio: config.hot_seller_ratio,
            letters: pool(0, false),
            text: pool(1, true),
            prices: (0..=N_PRICE_STEPS).map(|idx| step(idx).round() as u32).collect(),
            channels,
            urls,
        }
    }

    pub fn events(&self, numbers: impl Iterator<Item = u64>) -> Events {
        let numbers: Vec<u64> = numbers.collect();
        let draws = numbers.iter().map(|number| Draws::of(self.seed, *number)).collect();
        Events { numbers, draws }
    }

    /// One column of `events`, which are all of the column's kind.
    pub fn column(&self, column: Column, events: &Events) -> ArrayRef {
        match column {
            Column::DateTime => timestamps(events.numbers.iter().map(|number| self.date_time(*number))),
            Column::Expires => timestamps(events.iter().map(|(number, draws)| self.expires(number, draws))),

            Column::PersonId => ints(events.iter().map(|(number, _)| FIRST_PERSON_ID + last_person(number))),
            Column::AuctionId => {
                ints(events.iter().map(|(number, _)| FIRST_AUCTION_ID + last_auction(number)))
            }
            Column::InitialBid => ints(events.iter().map(|(_, draws)| self.price(draws.field(0)))),
            Column::Reserve => {
                ints(events.iter().map(|(_, draws)| self.price(draws.field(0)) + self.price(draws.field(1))))
            }
            Column::Seller => ints(events.iter().map(|(number, draws)| self.seller(number, draws))),
            Column::Category => {
                ints(events.iter().map(|(_, draws)| FIRST_CATEGORY_ID + draws.field(3).below(N_CATEGORIES)))
            }
            Column::BidAuction => ints(events.iter().map(|(number, draws)| self.bid_auction(number, draws))),
            Column::Bidder => ints(events.iter().map(|(number, draws)| self.bidder(number, draws))),
            Column::Price => ints(events.iter().map(|(_, draws)| self.price(draws.field(2)))),

            Column::PersonName => texts(events, 16, |out, _, draws| {
                let mut draw = draws.field(0);
                out.extend_from_slice(FIRST_NAMES[draw.take(FIRST_NAMES.len() as u64) as usize].as_bytes());
                out.push(b' ');
                out.extend_from_slice(LAST_NAMES[draw.take(LAST_NAMES.len() as u64) as usize].as_bytes());
            }),
            Column::EmailAddress => texts(events, 16, |out, _, draws| {
                let mut draw = draws.field(1);
                let user_len = 3 + draw.take(4) as usize;
                out.extend_from_slice(cut(&self.letters, &mut draw, user_len));
                out.push(b'@');
                let domain_len = 3 + draw.take(2) as usize;
                out.extend_from_slice(cut(&self.letters, &mut draw, domain_len));
                out.extend_from_slice(b".com");
            }),
            Column::CreditCard => texts(events, 19, |out, _, draws| {
                let mut draw = draws.field(2);
                for group in 0..4 {
                    if group > 0 {
                        out.push(b' ');
                    }
                    let digits = draw.take(10_000);
                    for power in [1000, 100, 10, 1] {
                        out.push(b'0' + (digits / power % 10) as u8);
                    }
                }
            }),
            Column::City => texts(events, 12, |out, _, draws| {
                out.extend_from_slice(city(draws).0.as_bytes());
            }),
            Column::State => texts(events, 2, |out, _, draws| {
                out.extend_from_slice(city(draws).1.as_bytes());
            }),
            Column::PersonExtra => {
                // What the other columns take up, about: the row is to have its size as a whole.
                texts(events, PERSON_BYTES, |out, _, draws| self.extra(out, draws.field(4), 84, PERSON_BYTES))
            }
            Column::ItemName => texts(events, 20, |out, _, draws| {
                let mut draw = draws.field(4);
                let len = 3 + draw.take(17) as usize;
                out.extend_from_slice(cut(&self.text, &mut draw, len));
            }),
            Column::Description => texts(events, 100, |out, _, draws| {
                let mut draw = draws.field(5);
                let len = 3 + draw.take(97) as usize;
                out.extend_from_slice(cut(&self.text, &mut draw, len));
            }),
            Column::AuctionExtra => texts(events, AUCTION_BYTES, |out, _, draws| {
                self.extra(out, draws.field(6), 119, AUCTION_BYTES)
            }),
            Column::Channel => texts(events, 12, |out, _, draws| {
                out.extend_from_slice(self.channels.get(channel(draws)));
            }),
            Column::Url => texts(events, 80, |out, _, draws| {
                out.extend_from_slice(self.urls.get(channel(draws)));
            }),
            Column::BidExtra => {
                texts(events, BID_BYTES, |out, _, draws| self.extra(out, draws.field(4), 32, BID_BYTES))
            }
        }
    }

    /// When the event happens: whole milliseconds, as in the original.
    fn date_time(&self, number: u64) -> i64 {
        let (seconds, rest) = (number / self.event_rate, number % self.event_rate);
        self.start_micros + (seconds * 1_000_000 + rest * 1000 / self.event_rate * 1000) as i64
    }

    /// An auction is open for as long as it takes to get about as many newer ones as are open.
    fn expires(&self, number: u64, draws: Draws) -> i64 {
        let now = self.date_time(number);
        let horizon = self.date_time(number + OPEN_AUCTIONS * ROUND / AUCTIONS) - now;
        let millis = 1 + draws.field(7).below((horizon as u64 * 2 / 1000).max(1));
        now + millis as i64 * 1000
    }

    fn seller(&self, number: u64, draws: Draws) -> u64 {
        let mut draw = draws.field(2);
        let last = last_person(number);
        let person = match draw.take(self.hot_seller_ratio) {
            0 => any_person(last, draw),
            _ => last / HOT_SPAN * HOT_SPAN,
        };
        FIRST_PERSON_ID + person
    }

    fn bid_auction(&self, number: u64, draws: Draws) -> u64 {
        let mut draw = draws.field(0);
        let last = last_auction(number);
        let auction = match draw.take(self.hot_auction_ratio) {
            0 => {
                let oldest = last.saturating_sub(OPEN_AUCTIONS);
                oldest + draw.take(last - oldest + 1)
            }
            _ => last / HOT_SPAN * HOT_SPAN,
        };
        FIRST_AUCTION_ID + auction
    }

    fn bidder(&self, number: u64, draws: Draws) -> u64 {
        let mut draw = draws.field(1);
        let last = last_person(number);
        let person = match draw.take(self.hot_bidder_ratio) {
            0 => any_person(last, draw),
            // One behind the hot seller, so that they are different people.
            _ => (last / HOT_SPAN * HOT_SPAN + 1).min(last),
        };
        FIRST_PERSON_ID + person
    }

    fn price(&self, mut draw: Draw) -> u64 {
        let step = draw.take(N_PRICE_STEPS) as usize;
        let (low, high) = (u64::from(self.prices[step]), u64::from(self.prices[step + 1]));
        low + draw.take((high - low).max(1))
    }

    /// Fills a row of `others` bytes up to about `size`.
    fn extra(&self, out: &mut Vec<u8>, mut draw: Draw, others: usize, size: usize) {
        let len = size - others;
        let spread = len / 5;
        let len = len - spread + draw.take(2 * spread as u64) as usize;
        out.extend_from_slice(cut(&self.letters, &mut draw, len));
    }
}

impl Events {
    fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Draws)> {
        self.numbers.iter().copied().zip(self.draws.iter().copied())
    }
}

/// The kind of an event.
pub fn table_of(number: u64) -> Table {
    match number % ROUND {
        0 => Table::Person,
        1..=AUCTIONS => Table::Auction,
        _ => Table::Bid,
    }
}

/// The newest person when event `number` has happened, from 0.
fn last_person(number: u64) -> u64 {
    number / ROUND
}

/// The newest auction when event `number` has happened, from 0; there is none before event 1.
fn last_auction(number: u64) -> u64 {
    number / ROUND * AUCTIONS + (number % ROUND).clamp(1, AUCTIONS) - 1
}

/// One of the newest persons.
fn any_person(last: u64, mut draw: Draw) -> u64 {
    let n_active = (last + 1).min(ACTIVE_PEOPLE);
    last + 1 - n_active + draw.take(n_active)
}

fn city(draws: Draws) -> (&'static str, &'static str) {
    CITIES[draws.field(3).below(CITIES.len() as u64) as usize]
}

/// The index of a bid's channel in the caches; the hot ones come first.
fn channel(draws: Draws) -> usize {
    let mut draw = draws.field(3);
    match draw.take(2) {
        0 => HOT_CHANNELS.len() + draw.take(N_CHANNELS) as usize,
        _ => draw.take(HOT_CHANNELS.len() as u64) as usize,
    }
}

/// The names and addresses of all channels, the same for every seed.
fn channels() -> (Strings, Strings) {
    let (mut names, mut urls) = (Strings::default(), Strings::default());
    let part =
        |draw: &mut Draw| -> String { (0..4).map(|_| char::from(b'a' + draw.take(26) as u8)).collect() };
    let base_url = |idx: u64| {
        let mut draw = Draws::of(0, idx).field(2);
        let (a, b) = (part(&mut draw), part(&mut draw));
        let c = part(&mut Draws::of(0, idx).field(3));
        format!("https://www.nexmark.com/{a}/{b}/{c}/item.htm?query=1")
    };
    for (idx, name) in HOT_CHANNELS.iter().enumerate() {
        names.push(name);
        urls.push(&base_url(idx as u64));
    }
    for idx in 0..N_CHANNELS {
        names.push(&format!("channel-{idx}"));
        let url = base_url(HOT_CHANNELS.len() as u64 + idx);
        match Draws::of(0, idx).field(4).below(10) {
            // One in ten has no id, so that extracting it is sometimes in vain (query 21).
            0 => urls.push(&url),
            _ => urls.push(&format!("{url}&channel_id={}", (idx as u32).reverse_bits() as i32 & i32::MAX)),
        }
    }
    (names, urls)
}

/// `len` bytes from anywhere in the pool.
fn cut<'a>(pool: &'a [u8], draw: &mut Draw, len: usize) -> &'a [u8] {
    let start = draw.take(POOL as u64) as usize;
    &pool[start..start + len]
}

fn ints(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.map(|value| value as i64)))
}

fn timestamps(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values))
}

/// A column of strings of about `len` bytes, each appended to the buffer by `write`.
fn texts(events: &Events, len: usize, write: impl Fn(&mut Vec<u8>, u64, Draws)) -> ArrayRef {
    let mut bytes = Vec::with_capacity(events.numbers.len() * len * 5 / 4);
    let mut offsets = Vec::with_capacity(events.numbers.len() + 1);
    offsets.push(0i32);
    for (number, draws) in events.iter() {
        write(&mut bytes, number, draws);
        offsets.push(bytes.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Arc::new(
        StringArray::try_new(offsets, Buffer::from_vec(bytes), None).expect("the generator writes ASCII"),
    )
}
