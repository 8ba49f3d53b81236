//! Which epic, on which scale, for each pair: asked of IG at start, not assumed.

use super::error::IgError;
use super::models::MarketDetails;
use super::rest::RestClient;
use super::session::tokens::Tokens;
use crate::config::{FeedConfig, Product, ScaleSetting};
use crate::domain::scale::{self, Verdict};
use crate::domain::{Epic, Pair, Price, Scale};

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

/// What IG says of an epic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// It has prices, and streams them as far as it says.
    Streamed,
    /// It has none that are streamed.
    NotStreamed,
    /// There is no such epic on this account.
    Unknown,
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
    let looked_at = survey(rest, tokens, feeds, product).await?;
    looked_at.iter().for_each(tell);
    Ok(looked_at.into_iter().map(|(instrument, _)| instrument).collect())
}

/// The same, with what IG says of each, and without a word in the log.
///
/// # Errors
/// As [`RestClient::markets`].
pub async fn survey(
    rest: &RestClient,
    tokens: &Tokens,
    feeds: &[FeedConfig],
    product: Product,
) -> Result<Vec<(Instrument, Listing)>, IgError> {
    let account_type = tokens.account_type.as_deref();
    let epics: Vec<Epic> = feeds.iter().map(|feed| epic_of(feed, product, account_type)).collect();
    let mut details = Vec::new();
    for chunk in epics.chunks(EPICS_PER_CALL) {
        details.extend(rest.markets(tokens, chunk).await?.market_details);
    }
    Ok(feeds.iter().zip(epics).map(|(feed, epic)| judge(feed, epic, &details)).collect())
}

fn judge(feed: &FeedConfig, epic: Epic, details: &[MarketDetails]) -> (Instrument, Listing) {
    let pair = feed.pair;
    let found = details.iter().find(|details| details.instrument.epic == epic.as_str());
    let listing = match found {
        None => Listing::Unknown,
        Some(details) if details.instrument.streaming_prices_available == Some(false) => Listing::NotStreamed,
        Some(_) => Listing::Streamed,
    };
    if let ScaleSetting::Fixed(scale) = feed.scale {
        return (Instrument { pair, epic, scale: Verdict::Scale(scale), scale_is_fixed: true }, listing);
    }
    let (bid, factor) = quote(found);
    let scale = scale::classify(pair, bid, factor);
    (Instrument { pair, epic, scale, scale_is_fixed: false }, listing)
}

/// Says what is not as it should be of an instrument.
fn tell((instrument, listing): &(Instrument, Listing)) {
    let Instrument { pair, epic, scale, .. } = instrument;
    match listing {
        Listing::Unknown => {
            log::warn!(pair:% = pair, epic:% = epic; "IG does not know this epic on this account")
        }
        Listing::NotStreamed => {
            log::warn!(pair:% = pair, epic:% = epic; "IG says that this epic has no streaming prices");
        }
        Listing::Streamed => {}
    }
    if *scale == Verdict::Ambiguous {
        log::error!(
            pair:% = pair, epic:% = epic;
            "price scale in doubt, its prices are held back: set the pair's scale to decimal or points"
        );
    }
}

/// A market's bid as sent, and IG's `scalingFactor`.
fn quote(market: Option<&MarketDetails>) -> (Option<Price>, Option<f64>) {
    let snapshot = market.and_then(|details| details.snapshot.as_ref());
    let bid = snapshot.and_then(|snapshot| snapshot.bid.as_ref());
    let bid = bid.and_then(|bid| Price::parse(bid.get(), 0).ok());
    (bid, snapshot.and_then(|snapshot| snapshot.scaling_factor))
}

/// A pair's price by REST and the scale that it quotes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The bid, divided by the scale.
    pub bid: Price,
    /// REST's scale.
    pub scale: Scale,
}

/// Asks IG at which prices instruments trade now. `None` for one that has no price, or one that
/// its scale leaves in doubt. At most [`EPICS_PER_CALL`] instruments.
///
/// # Errors
/// As [`RestClient::markets`].
pub async fn confirm(
    rest: &RestClient,
    tokens: &Tokens,
    instruments: &[Instrument],
) -> Result<Vec<Option<Confirmed>>, IgError> {
    let epics: Vec<Epic> = instruments.iter().map(|instrument| instrument.epic.clone()).collect();
    let details = rest.markets(tokens, &epics).await?.market_details;
    Ok(instruments.iter().map(|instrument| confirmed(instrument, &details)).collect())
}

fn confirmed(instrument: &Instrument, details: &[MarketDetails]) -> Option<Confirmed> {
    let market = details.iter().find(|details| details.instrument.epic == instrument.epic.as_str());
    let (bid, factor) = quote(market);
    let scale = match instrument.scale {
        Verdict::Scale(scale) if instrument.scale_is_fixed => scale,
        _ => match scale::classify(instrument.pair, bid, factor) {
            Verdict::Scale(scale) => scale,
            Verdict::NoPriceYet | Verdict::Ambiguous => return None,
        },
    };
    let bid = Price::from_units(bid?.units() / 10_i64.pow(scale.points_shift()))?;
    Some(Confirmed { bid, scale })
}

#[cfg(test)]
mod tests {
    use super::*;
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
            judge(&feed, epic_of(&feed, Product::Cfd, None), &markets.market_details).0.scale
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

    #[test]
    fn a_price_is_confirmed_on_the_scale_it_shows_or_that_was_settled() {
        let check = |scale, bid: &str, factor: &str, expected: Option<(&str, Scale)>| {
            let feed = feed("EURUSD", scale);
            let json = format!(
                r#"{{"marketDetails":[{{"instrument":{{"epic":"CS.D.EURUSD.CFD.IP"}},
                "snapshot":{{"bid":{bid},"scalingFactor":{factor},"marketStatus":"TRADEABLE"}}}}]}}"#
            );
            let markets: Markets = serde_json::from_str(&json).unwrap();
            let (instrument, _) = judge(&feed, epic_of(&feed, Product::Cfd, None), &[]);
            let told = confirmed(&instrument, &markets.market_details);
            let expected =
                expected.map(|(bid, scale)| Confirmed { bid: Price::parse(bid, 0).unwrap(), scale });
            assert_eq!(told, expected, "{bid} {factor}");
        };
        check(ScaleSetting::Auto, "1.14233", "10000", Some(("1.14233", Scale::Decimal)));
        check(ScaleSetting::Auto, "11423.3", "1", Some(("1.14233", Scale::Points(4))));
        check(ScaleSetting::Auto, "11423.3", "10000", None);
        check(ScaleSetting::Auto, "null", "1", None);
        check(ScaleSetting::Fixed(Scale::Decimal), "11423.3", "1", Some(("11423.3", Scale::Decimal)));
    }
}
