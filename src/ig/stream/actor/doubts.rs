//! Feeds whose scale is in doubt: REST is asked at which price they trade.

use std::collections::BTreeSet;
use std::time::Duration;

use actix::prelude::*;

use super::StreamActor;
use crate::domain::FeedIx;
use crate::ig::error::IgError;
use crate::ig::markets::{self, Instrument};
use crate::messages::{GetTokens, TokensRefused};

/// Pauses before REST is asked about a scale in doubt, and asked again; the last one repeats.
const CONFIRM_PAUSES_S: [u64; 5] = [1, 5, 30, 120, 600];

impl StreamActor {
    /// Asks REST about the feeds in doubt, ever more rarely while some stay so.
    pub(super) fn confirm_later(&mut self, ctx: &mut Context<Self>) {
        let pause_s = CONFIRM_PAUSES_S[self.confirmations.min(CONFIRM_PAUSES_S.len() - 1)];
        ctx.run_later(Duration::from_secs(pause_s), |act, ctx| {
            let items = &act.known.items;
            act.doubted.retain(|feed| items[feed.ix()].in_doubt().is_some());
            if act.doubted.is_empty() || act.stopping {
                (act.confirmations, act.doubted) = (0, BTreeSet::new());
                return;
            }
            act.confirmations += 1;
            let asked: Vec<(FeedIx, Instrument)> = act
                .doubted
                .iter()
                .filter_map(|feed| Some((*feed, items[feed.ix()].in_doubt()?.clone())))
                .take(markets::EPICS_PER_CALL)
                .collect();
            let (session, rest) = (act.session.clone(), act.rest.clone());
            let asking = async move {
                let tokens = session
                    .tokens
                    .send(GetTokens { validate: false })
                    .await
                    .map_err(|_| IgError::Retryable("the session room is gone".to_owned()))??;
                let (feeds, instruments): (Vec<FeedIx>, Vec<Instrument>) = asked.into_iter().unzip();
                let told = markets::confirm(&rest, &tokens, &instruments).await;
                if let Err(IgError::Unauthorized(_)) = &told {
                    // An open stream outlives its tokens, so nobody may have noticed: the next round has others.
                    let generation = tokens.generation;
                    session.refused.hint(TokensRefused { generation, certain: false });
                }
                let told = told?;
                Ok::<_, IgError>(feeds.into_iter().zip(told).collect::<Vec<_>>())
            };
            ctx.spawn(asking.into_actor(act).map(|told, act, ctx| {
                match told {
                    Ok(told) => act.confirmed(told, ctx),
                    Err(error) => log::warn!(error:% = error; "IG was asked about a price scale in vain"),
                }
                act.confirm_later(ctx);
            }));
        });
    }

    fn confirmed(&mut self, told: Vec<(FeedIx, Option<markets::Confirmed>)>, ctx: &mut Context<Self>) {
        let now = self.clock.monotonic();
        for (feed, confirmed) in told {
            let item = &mut self.known.items[feed.ix()];
            let Some(markets::Confirmed { bid, scale }) = confirmed.filter(|_| item.in_doubt().is_some())
            else {
                continue;
            };
            log::info!(pair:% = item.pair(), bid:% = bid, scale:% = scale; "IG confirms a price, subscribing again");
            item.confirm(bid);
            if let Some(link) = &mut self.link {
                link.session.resubscribe(now, feed.0);
            }
        }
        self.pump(ctx);
    }
}
