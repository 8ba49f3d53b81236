//! Where the HTTP interface is served, as `status` tells it.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::domain::Timestamp;
use crate::store::LeaseState;

/// Where the service keeps it in the database.
pub const SETTING: &str = "http";

/// Whether, and where, the HTTP interface is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// The address; none where nothing is to listen.
    pub address: Option<String>,
    /// Since when it is so, epoch seconds, UTC.
    pub since: i64,
    /// Why it cannot be served.
    pub error: Option<String>,
    /// The process that says so.
    pub pid: u32,
    /// Which holder of the lease that is: what another has left says nothing of the present one, and after a reboot
    /// that may have the same number.
    pub epoch: i64,
}

impl Place {
    /// Nothing is to listen.
    pub fn off(now: Timestamp) -> Place {
        Place { since: now.0, pid: std::process::id(), ..Place::default() }
    }

    /// Whether it is the present holder of the lease that says so, or said so last.
    pub fn is_of(&self, lease: &LeaseState) -> bool {
        self.epoch == lease.epoch
    }

    /// Reads what was kept; anything unreadable is as good as nothing.
    pub fn read(text: &str) -> Option<Place> {
        serde_json::from_str(text).ok()
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts make JSON")
    }

    /// For people.
    pub fn told(&self) -> String {
        let since = Timestamp(self.since);
        match (&self.address, &self.error) {
            (None, _) => "off".to_owned(),
            (Some(address), None) => format!("http://{address} since {since}"),
            (Some(address), Some(error)) => format!("not served on {address} since {since}: {error}"),
        }
    }
}

/// Tells of a change, and whether there is one.
pub(super) fn tell(
    place: &watch::Sender<Place>,
    address: &str,
    error: Option<String>,
    now: Timestamp,
) -> bool {
    place.send_if_modified(|place| {
        let (address, pid) = (Some(address.to_owned()), std::process::id());
        let next = Place { address, since: now.0, error, pid, ..Place::default() };
        let is_news = (&place.address, &place.error) != (&next.address, &next.error);
        if is_news {
            *place = next;
        }
        is_news
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_news_and_what_is_kept_is_read_again() {
        let (place, told) = watch::channel(Place::off(Timestamp(0)));
        assert_eq!(told.borrow().told(), "off");
        let taken = || Some("address in use".to_owned());
        let news = [(taken(), 60), (taken(), 120), (None, 180), (None, 240)].map(|(error, now)| {
            let is_news = tell(&place, "127.0.0.1:8017", error, Timestamp(now));
            let kept = told.borrow().clone();
            assert_eq!(Place::read(&kept.text()), Some(kept.clone()));
            (is_news, kept.told())
        });
        let since_60 = "not served on 127.0.0.1:8017 since 1970-01-01T00:01:00Z: address in use".to_owned();
        let since_180 = "http://127.0.0.1:8017 since 1970-01-01T00:03:00Z".to_owned();
        assert_eq!(
            news,
            [(true, since_60.clone()), (false, since_60), (true, since_180.clone()), (false, since_180)]
        );
        assert_eq!(Place::read("nonsense"), None);
    }
}
