//! The options of the generator.

use std::time::Duration;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::options::{OptionValue, option_enum, options};

option_enum! {
    /// What is generated.
    pub enum Data {
        /// The auction site of the Nexmark benchmark.
        Nexmark = "nexmark",
        /// 0, 1, 2, …
        Sequence = "sequence",
    }
}

option_enum! {
    /// A kind of Nexmark events.
    pub enum Table {
        Person = "person",
        Auction = "auction",
        Bid = "bid",
    }
}

options! {
    /// `WITH (connector = 'generator', …)`
    pub struct GeneratorConfig {
        /// What to generate: the events of the Nexmark benchmark, or the numbers 0, 1, 2, ….
        "data" => data: Data = "nexmark",
        /// Which kind of Nexmark events to read: `person`, `auction` or `bid`. Without it the rows are
        /// all events in their order, with `event_type` and one struct column per kind.
        "table" => table: Option<Table>,
        /// The number of events after which the stream ends, counted over the whole stream of all three
        /// kinds: of 50 events, 1 is a person, 3 are auctions and 46 are bids. Without it the stream
        /// never ends.
        "events" => events: Option<u64>,
        /// Events per second of the whole stream. Without it, or with 0, as fast as they are taken.
        "rate" => rate: u64 = "0",
        /// Another seed is another stream. Sources with the same seed belong together: the bids of one
        /// are for the auctions of the other.
        "seed" => seed: u64 = "0",
        /// The number of splits that the events are dealt out to.
        "splits" => splits: u64 = "1",
        /// The event time of the first event.
        "start_time" => start_time: EventTime = "2015-07-15 00:00:00",
        /// Events per second of event time, however fast they are generated.
        "event_rate" => event_rate: u64 = "10000",
        /// One bid in this many goes to any open auction, the others to the hot one.
        "hot_auction_ratio" => hot_auction_ratio: u64 = "2",
        /// One bid in this many is by any active person, the others by the hot one.
        "hot_bidder_ratio" => hot_bidder_ratio: u64 = "4",
        /// One auction in this many is by any active person, the others by the hot one.
        "hot_seller_ratio" => hot_seller_ratio: u64 = "4",
        /// The largest number of rows in one batch.
        "batch_rows" => batch_rows: u64 = "8192",
    }
}

/// How long a batch collects rows when there is a rate.
pub const PACE: Duration = Duration::from_millis(5);

impl GeneratorConfig {
    /// Refuses values that are numbers but make no sense.
    pub fn check(&self) -> Result<(), ConnectorError> {
        let positive = [
            ("splits", self.splits),
            ("event_rate", self.event_rate),
            ("hot_auction_ratio", self.hot_auction_ratio),
            ("hot_bidder_ratio", self.hot_bidder_ratio),
            ("hot_seller_ratio", self.hot_seller_ratio),
            ("batch_rows", self.batch_rows),
        ];
        for (name, value) in positive {
            if value == 0 {
                let message = format!("option \"{name}\" of connector \"generator\" cannot be 0");
                return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message));
            }
        }
        if self.batch_rows > 1 << 16 {
            let message = "option \"batch_rows\" of connector \"generator\" cannot be more than 65536";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message));
        }
        if self.data == Data::Sequence && self.table.is_some() {
            let message = "option \"table\" of connector \"generator\" is for data = 'nexmark' only";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message));
        }
        Ok(())
    }
}

/// A point in time, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime(pub i64);

impl OptionValue for EventTime {
    const KIND: &'static str = "timestamp";

    fn parse(text: &str) -> Result<EventTime, String> {
        let nanos = string_to_timestamp_nanos(text);
        nanos
            .map(|nanos| EventTime(nanos / 1000))
            .map_err(|_| "a timestamp, such as 2015-07-15 00:00:00".to_string())
    }
}
