//! What is kept of the stream across processes, and for `status`.

use std::time::Duration;

use super::StreamActor;
use crate::ig::session::failed;
use crate::ig::session::logins::Logins;
use crate::ig::stream::{probes, state};
use crate::store::{Store, StoreError};

/// How often new findings about the broker are kept.
pub(super) const KEEP_PROBES_EVERY: Duration = Duration::from_secs(60);

impl StreamActor {
    pub(super) fn keep(&self, key: &'static str, value: String) {
        self.save(move |store| store.set_setting(key, &value));
    }

    /// Writes something down that may be lost, but not silently.
    pub(super) fn save(&self, what: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static) {
        actix_rt::spawn(self.noting(what));
    }

    /// The same, queued at once; whether the database took it.
    fn noting<F>(&self, what: F) -> impl Future<Output = bool> + use<F>
    where
        F: FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static,
    {
        let saving = self.store.run(what);
        async move {
            let saved = saving.await;
            if let Err(error) = &saved {
                log::warn!(error:% = error; "the database did not take a note of the stream's");
            }
            saved.is_ok()
        }
    }

    /// Writes down the breaks that no row has ended yet, because the process ends: the next one
    /// does not know of them. Where it is killed they stay untold; what is missing the ledger says
    /// all the same.
    pub(super) fn keep_open_breaks(&self) {
        let Some(event_now) = self.event_clock.now() else { return };
        let (open, now) = (self.known.open_breaks(event_now), self.clock.wall());
        if !open.is_empty() {
            self.save(move |store| open.iter().try_for_each(|told| store.record_break(told, now)));
        }
    }

    /// Keeps how the stream stands at its beginning, whatever is kept.
    pub(super) fn begin_state(&mut self) {
        self.known.state.since = self.clock.wall().0;
        self.write_state();
    }

    /// Keeps how the stream stands, if it has changed.
    pub(super) fn keep_state(&mut self) {
        let state = &mut self.known.state;
        if *state == self.kept_state {
            return;
        }
        if state.phase != self.kept_state.phase || state.since == 0 {
            state.since = self.clock.wall().0;
        }
        self.write_state();
    }

    /// Keeps how the stream stands once more, where the database did not take the last note of it. Not with the next
    /// frame, which would have a database that is away asked all the time.
    pub(super) fn keep_state_again(&mut self) {
        if self.state_unkept.get().1 {
            self.state_unkept.set((self.notes_of_state, false));
            self.write_state();
        }
    }

    /// Shows how the stream stands, and has the database told.
    fn write_state(&mut self) {
        let state = &self.known.state;
        // The phase last: who looks in between is shown one that lasts for less than it does, and not for longer.
        self.stats.stream_since.set(state.since.unsigned_abs());
        self.stats.stream_phase.set(state.phase as u64);
        self.stats.stream_news.notify_one();
        self.kept_state = state.clone();
        self.notes_of_state += 1;
        let (number, mut kept, unkept) =
            (self.notes_of_state, self.kept_state.clone(), self.state_unkept.clone());
        let noting = self.noting(move |store| {
            kept.epoch = store.lease_epoch();
            store.set_setting(state::SETTING, &kept.write())
        });
        actix_rt::spawn(async move {
            let is_kept = noting.await;
            if number > unkept.get().0 {
                unkept.set((number, !is_kept));
            }
        });
    }

    pub(super) fn keep_probes(&mut self) {
        if self.known.probes != self.kept_probes {
            self.known.probes.updated_at = self.clock.wall().0;
            self.kept_probes = self.known.probes.clone();
            self.keep(probes::SETTING, self.kept_probes.write());
        }
    }

    /// Has the logins that led nowhere forgotten, once the present one has led to a good while of streaming.
    pub(super) fn keep_lasting(&mut self) {
        let now = self.clock.monotonic();
        let Some(link) = self.link.as_ref().filter(|link| link.works) else { return };
        let generation = link.tokens.generation;
        if failed::lasts(link.tokens.since, now) && self.lasting.replace(generation) != Some(generation) {
            self.save(Logins::note_lasting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix::prelude::*;
    use awc::ws::Frame;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::clock::{Clock, ClockKind, EventClock};
    use crate::config::{self, Login};
    use crate::domain::scale::{Scale, Verdict};
    use crate::domain::{Calendar, FeedIx, Timestamp};
    use crate::ig::lull::Lull;
    use crate::ig::markets::Instrument;
    use crate::ig::rest::{RestClient, http_client};
    use crate::ig::session::actor::{Desk, SessionActor, SessionSettings};
    use crate::ig::session::failed::Failed;
    use crate::ig::session::tokens::{Pair, Tokens};
    use crate::ig::stream::actor::connections::{Connecting, Link};
    use crate::ig::stream::actor::{Memory, StopStreaming, StreamSettings};
    use crate::ig::stream::chart;
    use crate::ig::stream::frames::Frames;
    use crate::ig::stream::socket::{Arrived, Clients, Piece};
    use crate::ig::stream::state::{Phase, StreamState};
    use crate::ig::stream::translate::{Carried, Translation};
    use crate::messages::{SessionLines, StreamTold};
    use crate::secret::Secret;
    use crate::stats::Stats;
    use crate::store::{DatabaseUrl, StoreHandle};
    use crate::supervisor::{Alarm, Alert, Lifeline, Line, Room};
    use crate::tlcp::{EndCause, Event, Lost, Options, TlcpSession, Transport, Version, update};
    use crate::transcript::Recorder;

    /// Wednesday 2020-01-15 12:00 UTC.
    const NOON: Timestamp = Timestamp(1_579_089_600);

    struct Deaf;

    impl Actor for Deaf {
        type Context = Context<Self>;
    }

    impl Handler<StreamTold> for Deaf {
        type Result = ();

        fn handle(&mut self, _: StreamTold, _: &mut Self::Context) {}
    }

    struct Stage {
        clock: Clock,
        store: StoreHandle,
        alerts: UnboundedReceiver<Alert>,
        dir: tempfile::TempDir,
    }

    impl Stage {
        /// A stream of two pairs at noon that has no connection, and what is around it.
        fn new() -> (Stage, StreamActor) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&DatabaseUrl::sqlite(dir.path().join("c.db"))).unwrap();
            let (store, _) = StoreHandle::spawn("stream-test", store).unwrap();
            let clock = Clock::simulated(NOON, 0);
            let (alarm, alerts) = Alarm::new();
            let secret = || Secret::new("secret");
            // Nothing answers there.
            let base = "http://127.0.0.1:9";
            let rest = RestClient::new(http_client(), base, secret());
            let credentials = Login { api_key: secret(), username: secret(), password: secret() };
            let (account_id, login_spacing) = (None, Duration::ZERO);
            let settings = SessionSettings {
                credentials,
                api_url: base.to_owned(),
                account_id,
                version: 2,
                login_spacing,
                retry_refused: false,
            };
            let lifeline = Lifeline::alone(Room::Session, &alarm);
            let desk = Desk::default();
            let session =
                SessionActor::new(rest.clone(), store.clone(), clock.clone(), settings, desk, lifeline)
                    .start();
            let instrument = |pair: &str| Instrument {
                pair: pair.parse().unwrap(),
                epic: format!("CS.D.{pair}.CFD.IP").parse().unwrap(),
                scale: Verdict::Scale(Scale::Decimal),
                scale_is_fixed: true,
            };
            let second = Duration::from_secs(1);
            let options = config::Stream {
                tlcp_version: "2.4.0".to_owned(),
                stale: second,
                silence: None,
                transport: None,
                retry: second,
                keepalive: None,
                stalled: second,
                reconnect: second,
                recovery: second,
                inactivity: None,
                content_length: 1_000_000,
                websocket_again: second,
                control_link: false,
            };
            let settings = StreamSettings {
                rest,
                instruments: vec![instrument("EURUSD"), instrument("GBPUSD")],
                version: Version::V2_4_0,
                calendars: std::iter::repeat_n(Arc::new(Calendar::forex()), 2).collect(),
                clock_kind: ClockKind::System,
                options,
                memory: Memory::default(),
                recorder: Recorder::default(),
            };
            let stream = StreamActor::new(
                Clients { asking: http_client(), streaming: http_client(), lull: Lull::default() },
                SessionLines {
                    tokens: Line::to(session.clone().recipient()),
                    refused: Line::to(session.recipient()),
                },
                Line::to(Deaf.start().recipient()),
                store.clone(),
                (clock.clone(), EventClock::new(ClockKind::System, clock.clone())),
                settings,
                Arc::new(Stats::default()),
                Lifeline::alone(Room::Stream, &alarm),
            );
            (Stage { clock, store, alerts, dir }, stream)
        }

        /// Pair, seconds from noon, and cause of what is written down, oldest first.
        async fn written(&self) -> Vec<String> {
            let mut breaks = self.store.run(|store| store.newest_breaks(10)).await.unwrap();
            breaks.reverse();
            let show = |told: &crate::store::StreamBreak| {
                let pair = told.pair.as_deref().unwrap_or("all");
                format!("{pair} {}..{} {}", told.from.since(NOON), told.to.since(NOON), told.cause)
            };
            breaks.iter().map(show).collect()
        }
    }

    #[actix::test]
    async fn a_note_of_the_state_that_the_database_did_not_take_is_written_again() {
        let (stage, mut stream) = Stage::new();
        let lease = stage.store.run(|store| store.acquire_lease("run", NOON)).await.unwrap();
        let noted = async || {
            let text = stage.store.run(|store| store.setting(state::SETTING)).await.unwrap();
            let state = text.and_then(|text| StreamState::read(&text));
            assert!(state.iter().all(|state| state.epoch == lease.epoch()), "whose stream it is");
            state.map(|state| (state.phase, state.since - NOON.0))
        };
        stream.begin_state();
        stream.known.state.enter(Phase::Interrupted, None);
        stream.keep_state();
        assert_eq!(noted().await, Some((Phase::Interrupted, 0)));
        let database = rusqlite::Connection::open(stage.dir.path().join("c.db")).unwrap();
        database.execute_batch("ALTER TABLE settings RENAME TO elsewhere").unwrap();
        stage.clock.advance(Duration::from_secs(7));
        stream.known.state.enter(Phase::Streaming, None);
        stream.keep_state();
        let refused = async {
            while !stream.state_unkept.get().1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
        database.execute_batch("ALTER TABLE elsewhere RENAME TO settings").unwrap();
        stream.keep_state();
        assert_eq!(noted().await, Some((Phase::Interrupted, 0)), "it waits for its time");
        stream.keep_state_again();
        assert_eq!(noted().await, Some((Phase::Streaming, 7)));
        // What was taken is not written again.
        database.execute("DELETE FROM settings WHERE key = ?", [state::SETTING]).unwrap();
        stream.keep_state_again();
        assert_eq!(noted().await, None);
        let shown = StreamState::shown(&stream.stats, None).unwrap();
        assert_eq!((shown.phase, shown.since - NOON.0), (Phase::Streaming, 7));
    }

    #[actix::test]
    async fn rows_wait_in_the_middle_of_a_candle_while_they_stream_and_nobody_watches() {
        let (stage, mut stream) = Stage::new();
        stream.known.state.enter(Phase::Streaming, None);
        stream.keep_state();
        let is_in_lull = |stream: &StreamActor| {
            stream.begin_or_end_lull();
            stream.clients.lull.next().is_some()
        };
        let seconds = |seconds| stage.clock.advance(Duration::from_secs(seconds));
        assert!(!is_in_lull(&stream), "a session has just begun");
        seconds(60);
        assert!(is_in_lull(&stream));
        stream.stats.forming_followers.set(1);
        assert!(!is_in_lull(&stream), "somebody watches");
        stream.stats.forming_followers.set(0);
        stream.known.state.enter(Phase::Interrupted, None);
        stream.keep_state();
        assert!(!is_in_lull(&stream), "nothing streams");
        stream.known.state.enter(Phase::Streaming, None);
        stream.keep_state();
        assert!(!is_in_lull(&stream), "a session has just begun");
        seconds(20);
        assert!(is_in_lull(&stream));
        seconds(217);
        assert!(!is_in_lull(&stream), "a candle is about to end");
        rows(&mut stream, "0");
        seconds(4);
        assert!(!is_in_lull(&stream), "candles have not ended");
        rows(&mut stream, "1");
        assert!(is_in_lull(&stream));
        stream.rows_may_wait = false;
        assert!(!is_in_lull(&stream));
    }

    /// A row of each pair, of the candle that begins at noon: its last or not. Each pair's first is a snapshot.
    fn rows(stream: &mut StreamActor, last: &str) {
        let (mut told, mut later) = (Vec::new(), Vec::new());
        let mut translation = Translation {
            now: stream.event_clock.now(),
            system_now: stream.event_clock.uncorrected(),
            steady: true,
            carried: Carried { version: Version::V2_4_0, transport: Transport::WebSocket },
            stats: &stream.stats,
            known: &mut stream.known,
            told: &mut told,
            later: &mut later,
        };
        let utm = (NOON.0 * 1000).to_string();
        let texts = [utm.as_str(), "1", "1", last].into_iter().chain(["1.1"; 8]);
        let values = texts.collect::<Vec<_>>().join("|");
        let changes = update::plain(&values, chart::FIELDS).unwrap();
        for tag in [0, 1] {
            translation.take(Event::Update { tag, item: 1, first: true, changes: &changes });
        }
        assert_eq!((told.len(), later.len()), (2, 0));
    }

    #[actix::test]
    async fn breaks_that_no_row_has_ended_are_written_down_when_it_is_told_to_stop() {
        let (stage, mut stream) = Stage::new();
        rows(&mut stream, "0");
        stream.known.silent(Some(FeedIx(1)));
        stream.known.session_over(&EndCause::Connection(Lost::Closed));
        stage.clock.advance(Duration::from_secs(40));
        stream.start().send(StopStreaming).await.unwrap();
        assert_eq!(
            stage.written().await,
            ["GBP_USD 0..40 silent for long, subscribed anew", "all 0..40 connection closed"]
        );
        let (stage, mut stream) = Stage::new();
        rows(&mut stream, "0");
        stream.start().send(StopStreaming).await.unwrap();
        assert!(stage.written().await.is_empty());
    }

    #[actix::test]
    async fn breaks_that_no_row_has_ended_are_written_down_before_an_exit_in_silence() {
        let (mut stage, mut stream) = Stage::new();
        rows(&mut stream, "0");
        stream.known.silent(None);
        stage.clock.advance(Duration::from_secs(7));
        stream.exit_in_silence(0);
        assert!(matches!(stage.alerts.recv().await, Some(Alert::Exit { .. })));
        assert_eq!(stage.written().await, ["all 0..7 silent for long, subscribed anew"]);
    }

    /// A session of this login that was made now, over which rows come.
    fn link(clock: &Clock, generation: u64) -> Link {
        let secret = || Secret::new("secret");
        let tokens = Tokens {
            generation,
            pair: Pair { cst: secret(), xst: secret() },
            bearer: None,
            account_id: String::new(),
            account_type: None,
            // Nothing answers there.
            lightstreamer_endpoint: "http://127.0.0.1:9".to_owned(),
            timezone_offset_s: 0,
            since: clock.monotonic(),
        };
        Link {
            session: TlcpSession::new(Options::default(), String::new(), String::new()),
            tokens: Arc::new(tokens),
            version: Version::V2_4_0,
            connection: None,
            connecting: Connecting::No,
            frames: Frames::default(),
            timer: None,
            works: true,
        }
    }

    #[actix::test]
    async fn a_connection_that_the_server_asks_for_in_a_lull_is_not_opened_in_it() {
        let (stage, mut stream) = Stage::new();
        let (mut link, now) = (link(&stage.clock, 1), stage.clock.monotonic());
        link.session.handle_open(now);
        for text in ["WSOK\r\n", "CONOK,S1,50000,5000,*\r\n"] {
            link.session.handle_message(now, text, &mut |_| ());
        }
        assert!(link.session.wanted().is_none() && link.session.opening().is_none(), "it is bound");
        stream.link = Some(link);
        stream.known.state.enter(Phase::Streaming, None);
        stream.keep_state();
        stage.clock.advance(Duration::from_secs(60));
        stream.begin_or_end_lull();
        assert!(stream.clients.lull.next().is_some());
        let pieces = vec![Piece::Frame(Frame::Text("LOOP,0\r\n".into()))];
        let arrived = Arrived { socket: stream.socket, pieces, lost: None };
        drop(stream.handle(arrived, &mut Context::new()));
        assert_eq!(stream.link.as_ref().map(|link| link.connecting), Some(Connecting::Now));
        assert!(stream.clients.lull.next().is_none());
    }

    #[actix::test]
    async fn a_good_while_of_streaming_has_logins_forgotten_that_led_nowhere() {
        let (stage, mut stream) = Stage::new();
        let failed = async || stage.store.run(Logins::read).await.unwrap().failed;
        let granted = Failed { count: 3, ..Failed::default() }.and_granted().write();
        let again = granted.clone();
        stage.store.run(move |store| store.set_setting(failed::SETTING, &granted)).await.unwrap();
        stream.link = Some(link(&stage.clock, 1));
        stage.clock.advance(failed::LASTS_AFTER - Duration::from_secs(1));
        stream.keep_lasting();
        assert_eq!(failed().await.count, 3, "not yet");
        stage.clock.advance(Duration::from_secs(1));
        stream.link.as_mut().unwrap().works = false;
        stream.keep_lasting();
        assert_eq!(failed().await.count, 3, "nothing comes");
        stream.link.as_mut().unwrap().works = true;
        stream.keep_lasting();
        assert_eq!(failed().await, Failed::default());
        // Each login has to earn it.
        stage.store.run(move |store| store.set_setting(failed::SETTING, &again)).await.unwrap();
        stream.link = Some(link(&stage.clock, 2));
        stream.keep_lasting();
        assert_eq!(failed().await.count, 3);
        stage.clock.advance(failed::LASTS_AFTER);
        stream.keep_lasting();
        assert_eq!(failed().await, Failed::default());
    }
}
