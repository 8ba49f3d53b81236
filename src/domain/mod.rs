//! The vocabulary of the house: pairs, prices, buckets, candles, bars and what is known about
//! each bucket. Pure: no broker, framework, database or clock is named here.
//!
//! Two words are kept apart throughout: a *candle* is the broker's view of a bucket while it
//! still moves, a *bar* is our settled view of it.

pub mod bar;
pub mod calendar;
pub mod candle;
pub mod coverage;
pub mod digits;
pub mod epic;
pub mod event;
pub mod fetched;
pub mod pair;
pub mod price;
pub mod scale;
pub mod time;
pub mod timeframe;
pub mod zone;

pub use bar::{Bar, BarKey, Source};
pub use calendar::{Calendar, Expectation};
pub use candle::{CandleUpdate, FeedIx};
pub use coverage::{Fact, FactBatch, Mark, Reason, State};
pub use epic::Epic;
pub use event::StreamEvent;
pub use fetched::{Fetched, FetchedBar};
pub use pair::Pair;
pub use price::{Mid, Ohlc, Price, PriceError};
pub use scale::Scale;
pub use time::Timestamp;
pub use timeframe::Timeframe;
pub use zone::Zone;
