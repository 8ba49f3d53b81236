//! Which epic, on which scale, for each pair: asked of IG at start, not assumed.

use super::error::IgError;
use super::models::MarketDetails;
use super::rest::RestClient;
use super::session::tokens::Tokens;
use crate::config::{FeedConfig, Product, ScaleSetting};
use crate::domain::scale::{self, Verdict};
use crate::domain::{Epic, Pair, Price};

/// IG answers at most this many epics in one call.
pub const EPICS_PER_CALL: usize = 50;

/// A pair with the instrument that is watched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// Currency pair.
    pub pair: Pair,
    /// IG's identifier.
    pub epic: Epic,
    /// What is known of the scale of its quotes.
    pub scale: Verdict,
    /// Whether the operator settled the scale.
    pub scale_is_fixed: bool,
}

/// Product part of an epic by account type, where the configuration leaves it to us.
fn product_part(product: Product, account_type: Option<&str>) -> &'static str {
    match product {
        Product::Cfd => "CFD",
        Product::Today => "TODAY",
        Product::Mini => "MINI",
        Product::Auto if account_type == Some("SPREADBET") => "TODAY",
        Product::Auto => "CFD",
    }
}

/// The epic to watch for a feed: the configured one, or IG's naming rule for the product.
pub fn epic_of(feed: &FeedConfig, product: Product, account_type: Option<&str>) -> Epic {
    feed.epic.clone().unwrap_or_else(|| {
        format!("CS.D.{}.{}.IP", feed.pair.letters(), product_part(product, account_type))
            .parse()
            .expect("six letters and a known product make an epic")
    })
}

/// Asks IG about every feed's epic in one call and judges the scale of its quotes. A pair that
/// IG does not know is kept, with a warning: its subscription will say why.
///
/// # Errors
/// As [`RestClient::markets`].
pub async fn resolve(
    rest: &RestClient,
    tokens: &Tokens,
    feeds: &[FeedConfig],
    product: Product,
) -> Result<Vec<Instrument>, IgError> {
    let account_type = tokens.account_type.as_deref();
    let epics: Vec<Epic> = feeds.iter().map(|feed| epic_of(feed, product, account_type)).collect();
    let mut details = Vec::new();
    for chunk in epics.chunks(EPICS_PER_CALL) {
        details.extend(rest.markets(tokens, chunk).await?.market_details);
    }
    Ok(feeds.iter().zip(epics).map(|(feed, epic)| judge(feed, epic, &details)).collect())
}

/// Asks IG again about one instrument's scale, where its prices no longer fit the one known or
/// none could be told. What the operator has settled is answered without asking.
///
/// # Errors
/// As [`RestClient::markets`].
pub async fn ask_scale(
    rest: &RestClient,
    tokens: &Tokens,
    instrument: &Instrument,
) -> Result<Verdict, IgError> {
    if instrument.scale_is_fixed {
        return Ok(instrument.scale);
    }
    let details = rest.markets(tokens, std::slice::from_ref(&instrument.epic)).await?.market_details;
    Ok(scale_told(instrument.pair, find(&details, &instrument.epic)).0)
}

fn find<'a>(details: &'a [MarketDetails], epic: &Epic) -> Option<&'a MarketDetails> {
    details.iter().find(|details| details.instrument.epic == epic.as_str())
}

/// What IG's price and scaling factor say of the scale, and the factor.
fn scale_told(pair: Pair, found: Option<&MarketDetails>) -> (Verdict, Option<f64>) {
    let snapshot = found.and_then(|details| details.snapshot.as_ref());
    let bid =
        snapshot.and_then(|snapshot| snapshot.bid.as_ref()).and_then(|bid| Price::parse(bid.get(), 0).ok());
    let factor = snapshot.and_then(|snapshot| snapshot.scaling_factor);
    (scale::classify(pair, bid, factor), factor)
}

fn judge(feed: &FeedConfig, epic: Epic, details: &[MarketDetails]) -> Instrument {
    let pair = feed.pair;
    let found = find(details, &epic);
    match found {
        None => log::warn!(pair:% = pair, epic:% = epic; "IG does not know this epic on this account"),
        Some(details) if details.instrument.streaming_prices_available == Some(false) => {
            log::warn!(pair:% = pair, epic:% = epic; "IG says that this epic has no streaming prices");
        }
        Some(_) => {}
    }
    if let ScaleSetting::Fixed(scale) = feed.scale {
        return Instrument { pair, epic, scale: Verdict::Scale(scale), scale_is_fixed: true };
    }
    let (scale, factor) = scale_told(pair, found);
    if scale == Verdict::Ambiguous {
        log::error!(
            pair:% = pair, epic:% = epic, scaling_factor:? = factor;
            "price scale in doubt, its prices are held back: set the pair's scale to decimal or points"
        );
    }
    Instrument { pair, epic, scale, scale_is_fixed: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scale::Scale;
    use crate::ig::models::Markets;

    fn feed(pair: &str, scale: ScaleSetting) -> FeedConfig {
        FeedConfig { pair: pair.parse().unwrap(), epic: None, scale, calendar: "forex".to_owned() }
    }

    #[test]
    fn the_epic_follows_the_account_unless_told() {
        let mut feed = feed("EURUSD", ScaleSetting::Auto);
        let epic = |feed: &FeedConfig, product, account| epic_of(feed, product, account).to_string();
        assert_eq!(epic(&feed, Product::Auto, Some("CFD")), "CS.D.EURUSD.CFD.IP");
        assert_eq!(epic(&feed, Product::Auto, Some("SPREADBET")), "CS.D.EURUSD.TODAY.IP");
        assert_eq!(epic(&feed, Product::Auto, None), "CS.D.EURUSD.CFD.IP");
        assert_eq!(epic(&feed, Product::Mini, Some("CFD")), "CS.D.EURUSD.MINI.IP");
        feed.epic = Some("CS.D.EURUSD.CEB.IP".parse().unwrap());
        assert_eq!(epic(&feed, Product::Auto, Some("CFD")), "CS.D.EURUSD.CEB.IP");
    }

    #[test]
    fn the_scale_is_judged_by_price_and_factor_or_told() {
        let json = |bid: &str, factor: &str| {
            format!(
                r#"{{"marketDetails":[{{"instrument":{{"epic":"CS.D.EURUSD.CFD.IP"}},
                "snapshot":{{"bid":{bid},"scalingFactor":{factor},"marketStatus":"TRADEABLE"}}}}]}}"#
            )
        };
        let scale = |setting, bid: &str, factor: &str| {
            let markets: Markets = serde_json::from_str(&json(bid, factor)).unwrap();
            let feed = feed("EURUSD", setting);
            judge(&feed, epic_of(&feed, Product::Cfd, None), &markets.market_details).scale
        };
        assert_eq!(scale(ScaleSetting::Auto, "1.14233", "10000"), Verdict::Scale(Scale::Decimal));
        assert_eq!(scale(ScaleSetting::Auto, "11423.3", "1"), Verdict::Scale(Scale::Points(4)));
        assert_eq!(scale(ScaleSetting::Auto, "null", "1"), Verdict::NoPriceYet);
        assert_eq!(scale(ScaleSetting::Auto, "1.14233", "1"), Verdict::Ambiguous, "contradiction");
        assert_eq!(
            scale(ScaleSetting::Fixed(Scale::Points(4)), "1.14233", "10000"),
            Verdict::Scale(Scale::Points(4))
        );
    }
}
