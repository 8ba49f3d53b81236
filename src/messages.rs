//! Every message between rooms: the wiring on one page.
//!
//! A message is a fact in the past tense or a request in the imperative, immutable, in domain
//! types but for tokens and errors, which belong to the rooms that give them. Messages that an actor sends itself stay in its own file.

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;

use crate::domain::{FactBatch, FeedIx, Fetched, StreamEvent, Timestamp};
use crate::healer::plan::Request;
use crate::ig::IgError;
use crate::ig::history::answer::Unproven;
use crate::ig::session::tokens::Tokens;
use crate::store::StoreError;
use crate::supervisor::Line;

/// StreamActor → AggregatorActor: all that a batch of frames told. Answered once it is taken,
/// which is how a slow database slows the reading of the socket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StreamTold(pub Vec<StreamEvent>);

/// AggregatorActor → StreamActor: an item has been silent for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Resubscribe {
    /// Which feed.
    pub feed: FeedIx,
    /// How many subscriptions in a row, before this one, have not ended the silence. A row that
    /// says something new begins the count anew; more than none asks for stronger means.
    pub in_vain: u32,
}

/// HealerActor → AggregatorActor: bars and findings from REST.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HistoryTold(pub FactBatch);

/// AggregatorActor → WriterActor: make these durable. Answered when they are.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Arc<StoreError>>")]
pub struct StoreFacts {
    /// What was found.
    pub batch: Arc<FactBatch>,
    /// When, however often it has been offered since.
    pub found: Instant,
}

/// AggregatorActor → HealerActor: the ledger has new holes that REST may fill.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HolesRecorded;

/// Anyone → SessionActor: tokens that work. Answered when there are some.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Tokens>, IgError>")]
pub struct GetTokens {
    /// Ask IG whether they still work, as before a new streaming session.
    pub validate: bool,
}

/// Anyone → SessionActor: IG answered these tokens with 401.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TokensRefused {
    /// Which ones, so that a second complaint about the same tokens costs nothing.
    pub generation: u64,
    /// Whether they are dead for certain. Else, and where that was said just before, they are tested before they
    /// are replaced.
    pub certain: bool,
}

/// The way to the session, for those who speak to IG.
#[derive(Clone, Debug, Default)]
pub struct SessionLines {
    /// For tokens.
    pub tokens: Line<GetTokens>,
    /// For complaints about them.
    pub refused: Line<TokensRefused>,
}

/// Topology → SessionActor: end the session with IG. Answered when that is tried.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogOut;

/// HealerActor → HistoryActor: bars over REST.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Fetched, HistoryError>")]
pub struct FetchBars {
    /// What is asked for, as planned.
    pub request: Request,
    /// A bucket near the span whose bar is known, to test by it how IG reads ranges.
    pub anchor: Option<Timestamp>,
    /// Whether it only tries if there are points again, whatever the numbers known.
    pub probe: bool,
}

/// Topology → HistoryActor: learn from IG's last bar what time it is in the market, where no stream
/// tells. Costs a point where the event clock goes by the stream, else nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), HistoryError>")]
pub struct LearnTime;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Points are short: nothing was asked.
    #[error("the allowance leaves {available} points, the request costs {cost}")]
    NotAffordable {
        /// Points of the request.
        cost: u32,
        /// Points that may be spent on it now.
        available: u32,
    },
    /// The scale of the instrument's prices is in doubt: nothing was asked.
    #[error("the scale of the instrument's prices is in doubt")]
    ScaleInDoubt,
    /// The answer cannot be trusted to speak of what was asked.
    #[error(transparent)]
    Unproven(#[from] Unproven),
    /// There are no tokens to ask with, for this reason: nothing was asked.
    #[error("no tokens to ask with: {0}")]
    NoTokens(#[source] IgError),
    /// The broker's side.
    #[error(transparent)]
    Ig(#[from] IgError),
    /// The database, where the spend must be booked before it is made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event clock has seen nothing yet, so the forming bar cannot be told from a complete one.
    #[error("no stream row has come yet to tell the time")]
    NoTimeYet,
    /// It is not yet known in which zone IG reads the bounds of a range.
    #[error("the zone of IG's date ranges is not known yet")]
    ZoneUnknown,
}
