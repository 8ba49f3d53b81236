//! Which complaints about tokens are believed without a test. Pure.
//!
//! Whoever complains may be refused for another reason than the tokens, for ever: a login helps then no more
//! than it did before, and brokers lock accounts that log in without end.

use std::time::{Duration, Instant};

/// A complaint that tokens are dead for certain is believed once within this time, whoever has it. Others have
/// them tested.
pub const BELIEVED_EVERY: Duration = Duration::from_secs(30 * 60);

/// What was complained of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    believed_at: Option<Instant>,
}

impl Complaints {
    /// Whether tokens are to be given up at once, without a test.
    pub fn is_believed(&mut self, certain: bool, now: Instant) -> bool {
        let rested = self.believed_at.is_none_or(|at| now.saturating_duration_since(at) >= BELIEVED_EVERY);
        let is_believed = certain && rested;
        if is_believed {
            self.believed_at = Some(now);
        }
        is_believed
    }
}

#[cfg(test)]
mod tests {
    use actix::prelude::*;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Login;
    use crate::domain::Timestamp;
    use crate::ig::rest::{RestClient, fake, http_client};
    use crate::ig::session::actor::{Desk, SessionActor, SessionSettings};
    use crate::messages::{GetTokens, TokensRefused};
    use crate::secret::Secret;
    use crate::store::{DatabaseUrl, Store, StoreHandle};
    use crate::supervisor::{Alarm, Lifeline, Room};

    /// How long complaints come.
    const HOURS: u64 = 6;
    /// From one to the next.
    const COMPLAINED_EVERY: Duration = Duration::from_secs(30);

    /// Logins within hours in which somebody complains again and again of tokens that all tests find good.
    async fn logins(certain: bool) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
        let (store, _) = StoreHandle::spawn("session-test", store).unwrap();
        // An answer to either, whichever is asked for.
        let answer = r#"{"currentAccountId":"ABC12","accountId":"ABC12","lightstreamerEndpoint":"http://x"}"#;
        let (base, asked) = fake::server(vec![fake::ok(answer); 10_000]);
        let secret = || Secret::new("secret");
        let settings = SessionSettings {
            credentials: Login { api_key: secret(), username: secret(), password: secret() },
            api_url: base.clone(),
            account_id: None,
            version: 2,
            login_spacing: Duration::ZERO,
            retry_refused: true,
        };
        let clock = Clock::simulated(Timestamp(1_700_000_000), 0);
        let rest = RestClient::new(http_client(), &base, secret());
        let (alarm, _alerts) = Alarm::new();
        let lifeline = Lifeline::alone(Room::Session, &alarm);
        let room = SessionActor::new(rest, store, clock.clone(), settings, Desk::default(), lifeline).start();
        for _ in 0..HOURS * 3_600 / COMPLAINED_EVERY.as_secs() {
            let tokens = room.send(GetTokens { validate: false }).await.unwrap().unwrap();
            room.send(TokensRefused { generation: tokens.generation, certain }).await.unwrap();
            clock.advance(COMPLAINED_EVERY);
        }
        asked.lock().unwrap().iter().filter(|asked| *asked == "POST /session").count()
    }

    #[actix::test]
    async fn whoever_complains_again_and_again_brings_about_few_logins() {
        assert_eq!(logins(false).await, 1);
        // The first one, and another each half hour.
        assert_eq!(logins(true).await, 1 + 2 * HOURS as usize);
    }

    #[test]
    fn who_is_not_certain_uses_up_nobodys_turn() {
        let (mut complaints, begin) = (Complaints::default(), Clock::system().monotonic());
        let mut check = |after_s: u64, certain: bool, expected: bool| {
            let told = complaints.is_believed(certain, begin + Duration::from_secs(after_s));
            assert_eq!(told, expected, "{after_s}");
        };
        check(0, false, false);
        check(1, true, true);
        check(2, true, false);
        check(1_800, true, false);
        check(1_801, false, false);
        check(1_801, true, true);
        check(1_802, true, false);
    }
}
