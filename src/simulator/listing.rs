//! Which epics there are, who sees them, and in what scale they quote. Pure.

use std::collections::BTreeMap;

use super::desk::AccountType;
use crate::domain::Pair;

/// The product part of an epic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Standard CFD: `CS.D.EURUSD.CFD.IP`.
    Cfd,
    /// Daily funded spread bet: `CS.D.EURUSD.TODAY.IP`.
    Today,
    /// Mini contract: `CS.D.EURUSD.MINI.IP`.
    Mini,
}

impl Product {
    /// Every product.
    pub const ALL: [Product; 3] = [Product::Cfd, Product::Today, Product::Mini];

    /// How an epic spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Product::Cfd => "CFD",
            Product::Today => "TODAY",
            Product::Mini => "MINI",
        }
    }

    /// Whether accounts of a type see it.
    pub(crate) fn seen_by(self, account: AccountType) -> bool {
        match self {
            Product::Cfd => account == AccountType::Cfd,
            Product::Today => account == AccountType::Spreadbet,
            Product::Mini => true,
        }
    }
}

/// One tradable instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instrument {
    pub pair: Pair,
    pub product: Product,
    /// Digits of a quote behind the point.
    pub decimals: usize,
    /// What a quote is multiplied by to give points of a pip.
    pub scaling_factor: u32,
}

impl Instrument {
    pub fn epic(&self) -> String {
        format!("CS.D.{}.{}.IP", self.pair.letters(), self.product.as_str())
    }
}

/// Every instrument of the simulated broker.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pairs: Vec<Pair>,
    /// Products that quote in points (13358.8) instead of decimals (1.33588).
    in_points: Vec<Product>,
    /// Pairs that have changed: whether they quote in points, whatever the product.
    rescaled: BTreeMap<Pair, bool>,
}

impl Listing {
    pub fn new(pairs: &[Pair], in_points: &[Product]) -> Listing {
        Listing { pairs: pairs.to_vec(), in_points: in_points.to_vec(), rescaled: BTreeMap::new() }
    }

    /// These pairs quote in points from now on, or in decimals.
    pub fn set_scale(&mut self, pairs: &[Pair], in_points: bool) {
        self.rescaled.extend(pairs.iter().map(|pair| (*pair, in_points)));
    }

    /// Digits of a pair's quotes behind the point.
    pub fn decimals(pair: Pair, in_points: bool) -> usize {
        if in_points { pair.decimals() - pip_decimals(pair) } else { pair.decimals() }
    }

    /// The instrument that an epic names.
    pub fn find(&self, epic: &str) -> Option<Instrument> {
        let (letters, product) = epic.strip_prefix("CS.D.")?.strip_suffix(".IP")?.split_once('.')?;
        let product = Product::ALL.into_iter().find(|known| known.as_str() == product)?;
        let pair = self.pairs.iter().copied().find(|pair| pair.letters() == letters)?;
        Some(self.instrument(pair, product))
    }

    /// Every instrument of some pairs that accounts of a type see.
    pub fn seen_by(&self, account: AccountType) -> impl Iterator<Item = Instrument> + '_ {
        let products = Product::ALL.into_iter().filter(move |product| product.seen_by(account));
        products.flat_map(move |product| self.pairs.iter().map(move |pair| self.instrument(*pair, product)))
    }

    fn instrument(&self, pair: Pair, product: Product) -> Instrument {
        let in_points =
            self.rescaled.get(&pair).copied().unwrap_or_else(|| self.in_points.contains(&product));
        let scaling_factor = if in_points { 1 } else { 10_u32.pow(pip_decimals(pair) as u32) };
        Instrument { pair, product, decimals: Listing::decimals(pair, in_points), scaling_factor }
    }
}

/// Digits behind the point that a pip is the last of.
fn pip_decimals(pair: Pair) -> usize {
    if pair.is_jpy_quoted() { 2 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pair::MAJOR_PAIRS;

    #[test]
    fn only_listed_epics_are_found() {
        let listing = Listing::new(&MAJOR_PAIRS, &[]);
        for instrument in listing.seen_by(AccountType::Cfd) {
            assert_eq!(listing.find(&instrument.epic()), Some(instrument));
        }
        for epic in
            ["", "CS.D.EURUSD.CFD", "CS.D.EURUSD.DAILY.IP", "CS.D.GBPEUR.CFD.IP", "cs.d.eurusd.cfd.ip"]
        {
            assert_eq!(listing.find(epic), None, "{epic}");
        }
    }

    #[test]
    fn a_product_in_points_moves_the_point_to_the_pip() {
        let listing = Listing::new(&MAJOR_PAIRS, &[Product::Today]);
        let scale = |epic| listing.find(epic).map(|found| (found.decimals, found.scaling_factor));
        assert_eq!(scale("CS.D.GBPUSD.TODAY.IP"), Some((1, 1)));
        assert_eq!(scale("CS.D.USDJPY.TODAY.IP"), Some((1, 1)));
        assert_eq!(scale("CS.D.GBPUSD.CFD.IP"), Some((5, 10_000)));
        assert_eq!(scale("CS.D.USDJPY.CFD.IP"), Some((3, 100)));

        let mut listing = listing.clone();
        listing.set_scale(&["GBPUSD".parse().unwrap()], true);
        let scale = |epic| listing.find(epic).map(|found| (found.decimals, found.scaling_factor));
        assert_eq!(scale("CS.D.GBPUSD.CFD.IP"), Some((1, 1)));
        assert_eq!(scale("CS.D.USDJPY.CFD.IP"), Some((3, 100)));
    }
}
