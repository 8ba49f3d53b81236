//! IG's JSON as IG spells it, and only the members that are read. Nothing outside this room
//! sees these names.
#![expect(missing_docs, reason = "members are IG's, described in IG's REST reference")]

use serde::Deserialize;
use serde_json::value::RawValue;

/// Answer to `POST /session` version 1 and 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginV2 {
    pub account_type: Option<String>,
    pub current_account_id: String,
    pub lightstreamer_endpoint: String,
    pub timezone_offset: Option<f64>,
    #[serde(default)]
    pub accounts: Vec<Account>,
}

/// One of the client's accounts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    pub account_id: String,
    #[serde(default)]
    pub account_type: Option<String>,
}

/// Answer to `POST /session` version 3.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginV3 {
    pub account_id: String,
    pub lightstreamer_endpoint: String,
    pub timezone_offset: Option<f64>,
    pub oauth_token: OauthToken,
}

/// OAuth pair: part of the version 3 login, the whole answer of a refresh.
#[derive(Deserialize)]
pub struct OauthToken {
    pub access_token: String,
    pub refresh_token: String,
    /// Seconds. Documented as a JSON string; a number is accepted too.
    pub expires_in: StringOrNumber,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum StringOrNumber {
    Text(String),
    Number(f64),
}

impl StringOrNumber {
    pub fn seconds(&self) -> Option<f64> {
        match self {
            StringOrNumber::Text(text) => text.parse().ok(),
            StringOrNumber::Number(number) => Some(*number),
        }
    }
}

/// Answer to `GET /session`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    pub account_id: String,
    pub lightstreamer_endpoint: Option<String>,
    pub timezone_offset: Option<f64>,
}

/// Answer to `GET /accounts`.
#[derive(Debug, Deserialize)]
pub struct Accounts {
    #[serde(default)]
    pub accounts: Vec<Account>,
}

/// One entry of `GET /operations/application`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    pub allowance_application_overall: Option<u32>,
    pub allowance_account_overall: Option<u32>,
    pub concurrent_subscriptions_limit: Option<u32>,
    #[serde(default)]
    pub api_key: Option<String>,
}

/// Answer to `GET /markets?epics=` version 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Markets {
    #[serde(default)]
    pub market_details: Vec<MarketDetails>,
}

#[derive(Debug, Deserialize)]
pub struct MarketDetails {
    pub instrument: Instrument,
    pub snapshot: Option<MarketSnapshot>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instrument {
    pub epic: String,
    pub streaming_prices_available: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketSnapshot {
    /// Kept as text: its decimals matter.
    pub bid: Option<Box<RawValue>>,
    pub scaling_factor: Option<f64>,
    pub market_status: Option<String>,
}

/// Answer to `GET /prices/{epic}` version 3.
#[derive(Debug, Deserialize)]
pub struct Prices {
    pub prices: Vec<PriceRow>,
    pub metadata: Option<PricesMetadata>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceRow {
    pub snapshot_time: Option<String>,
    #[serde(rename = "snapshotTimeUTC")]
    pub snapshot_time_utc: Option<String>,
    pub open_price: Option<BidAsk>,
    pub close_price: Option<BidAsk>,
    pub high_price: Option<BidAsk>,
    pub low_price: Option<BidAsk>,
    pub last_traded_volume: Option<f64>,
}

/// Both legs as text, since any of them can be null and the decimals matter.
#[derive(Debug, Deserialize)]
pub struct BidAsk {
    pub bid: Option<Box<RawValue>>,
    pub ask: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PricesMetadata {
    pub allowance: Option<Allowance>,
    pub page_data: Option<PageData>,
}

/// IG's own account of the weekly data points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allowance {
    pub remaining_allowance: i64,
    pub total_allowance: i64,
    /// Seconds until the period ends.
    pub allowance_expiry: i64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageData {
    pub page_number: i64,
    pub total_pages: i64,
}
