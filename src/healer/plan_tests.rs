//! Plans as text, and the laws that every plan keeps.

use proptest::prelude::*;

use super::super::testing::{NOON, at, page, pair};
use super::*;
use crate::domain::Calendar;

const TERMS: Terms =
    Terms { reserve: 0, incident_cap: 1_000_000, bars_max: 400, quarters: true, reaching_now: 0 };

fn purse(remaining: u32) -> Purse {
    Purse { remaining, ..Purse::default() }
}

/// Bucket 100 is forming.
const PRESENT: Now = Now { event: Timestamp(NOON.0 + 100 * 300 + 60), wall: NOON };

/// Requests as text: feed, `m` or `q` (of 15 minutes), from-to in 5-minute buckets, `!` where
/// urgent.
fn shown(plan: &Plan) -> String {
    let bucket = |time: Timestamp| time.since(NOON) / 300;
    let one = |request: &Request| {
        format!(
            "{}{}{}-{}{}",
            request.feed.0,
            if request.timeframe == Timeframe::M5 { 'm' } else { 'q' },
            bucket(request.span.start),
            bucket(request.span.end),
            if request.urgent { "!" } else { "" }
        )
    };
    plan.requests.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// A plan of these ledgers, whose last letter is the last complete bucket.
fn planned(ledgers: &[(&str, &str)], purse: &Purse, terms: &Terms) -> Plan {
    let pages: Vec<Page> =
        ledgers.iter().enumerate().map(|(feed, (m5, m15))| page(feed as u16, m5, m15)).collect();
    let last = ledgers.iter().map(|(m5, m15)| m5.len().max(m15.len() * 3)).max().unwrap() as i64;
    plan(&pages, &Attempts::default(), purse, terms, Now { event: at(last), wall: NOON })
}

fn check(ledgers: &[(&str, &str)], remaining: u32, expected: &str) {
    assert_eq!(shown(&planned(ledgers, &purse(remaining), &TERMS)), expected, "{ledgers:?} with {remaining}");
}

#[test]
fn the_newest_comes_first_across_all_pairs() {
    check(&[("ddsssd", ""), ("ddddss", "")], 99, "0m5-6! 1m0-4! 0m0-2!");
}

#[test]
fn what_cannot_be_paid_for_is_the_oldest_of_all_pairs() {
    let soon = Purse { renews_in_s: Some(3_600), ..purse(7) };
    let plan = planned(&[("dddddd", ""), ("dddddd", "")], &soon, &TERMS);
    assert_eq!(shown(&plan), "0m2-6! 1m3-6!");
    assert_eq!((plan.points(), plan.buckets_waiting()), (7, 5));
}

#[test]
fn fifteen_minutes_are_bought_where_five_cannot_be_paid_for() {
    // Twelve buckets are four quarters: with eight points two of each.
    check(&[("dddddddddddd", "")], 8, "0m6-12! 0q0-6!");
    check(&[("dddddddddddd", "")], 4, "0q0-12!");
    check(&[("dddddddddddd", "")], 3, "0q3-12!");
    check(&[("dddddddddddd", "")], 12, "0m0-12!");
}

#[test]
fn fifteen_minutes_that_are_there_are_not_bought_again() {
    check(&[("dddddddddddd", "ss..")], 8, "0m4-12!");
    check(&[("dddddddddddd", "q...")], 7, "0m6-12! 0q3-6!");
}

#[test]
fn where_none_are_kept_none_are_bought() {
    let terms = Terms { quarters: false, ..TERMS };
    assert_eq!(shown(&planned(&[("dddddddddddd", "")], &purse(8), &terms)), "0m4-12!");
}

#[test]
fn an_incident_has_its_share_of_the_week() {
    let terms = Terms { incident_cap: 4, quarters: false, ..TERMS };
    let two = [("dddsssssdddd", "")];
    assert_eq!(shown(&planned(&two, &purse(99), &terms)), "0m8-12! 0m0-3!", "each its own");
    let spent = Purse { spent: vec![(at(6)..at(20), 3)], ..purse(99) };
    let plan = planned(&two, &spent, &terms);
    assert_eq!(shown(&plan), "0m11-12! 0m0-3!");
    let [waiting] = plan.waiting[..] else { panic!("{:?}", plan.waiting) };
    assert_eq!((waiting.buckets, waiting.why), (3, Why::Incident));
    // Two pairs' holes of the same time are one incident, and history asked for is none.
    assert_eq!(planned(&[("ddd", ""), (".ddd", "")], &purse(99), &terms).points(), 4);
    assert_eq!(planned(&[("ffffff", "")], &purse(99), &terms).points(), 6);
}

#[test]
fn an_incident_that_goes_on_is_one_however_it_was_healed() {
    let terms = Terms { incident_cap: 4, quarters: false, ..TERMS };
    // Healed a bucket at a time, each in an incident of its own.
    let spent = (0..3).map(|bucket| (at(bucket)..at(bucket + 1), 1)).collect();
    let plan = planned(&[("sssdd", "")], &Purse { spent, ..purse(99) }, &terms);
    assert_eq!((shown(&plan).as_str(), plan.buckets_waiting()), ("0m4-5!", 1));
    // A stored bucket lies between: another one.
    let spent = vec![(at(0)..at(2), 4)];
    assert_eq!(planned(&[("sssdd", "")], &Purse { spent, ..purse(99) }, &terms).points(), 2);
}

#[test]
fn closes_that_were_not_seen_are_no_incident() {
    let terms = Terms { incident_cap: 1, quarters: false, ..TERMS };
    let plan = planned(&[("uuu", ""), (".uu", "")], &purse(99), &terms);
    assert_eq!((plan.points(), plan.requests[0].incident.clone()), (5, None));
    assert_eq!(planned(&[("udu", "")], &purse(99), &terms).points(), 1, "with a loss they are");
}

#[test]
fn what_was_urgent_when_an_incident_ended_stays_so_while_it_is_healed() {
    let terms = Terms { reserve: 100, quarters: false, ..TERMS };
    // It ended half an hour ago; its newest part is healed already.
    let ledger = format!("{}{}", "d".repeat(286), "s".repeat(8));
    let spent = vec![(at(0)..at(288), 2)];
    let plan = planned(&[(&ledger, "")], &Purse { spent, ..purse(300) }, &terms);
    assert!(plan.requests.iter().all(|request| request.urgent), "{}", shown(&plan));
    assert_eq!(plan.points(), 286);
    let later = format!("{}{}", "d".repeat(286), "s".repeat(16));
    let spent = vec![(at(0)..at(288), 2)];
    let plan = planned(&[(&later, "")], &Purse { spent, ..purse(300) }, &terms);
    assert!(plan.points() < 286, "{}", shown(&plan));
}

#[test]
fn the_reserve_is_for_what_was_lost_within_a_day() {
    let terms = Terms { reserve: 10, quarters: false, ..TERMS };
    assert_eq!(shown(&planned(&[("ffffff", "")], &purse(12), &terms)), "0m4-6");
    assert_eq!(shown(&planned(&[("dddddd", "")], &purse(6), &terms)), "0m0-6!");
    // A hole that reaches over the line is one where the reserve is not needed.
    let long = "d".repeat(300);
    assert_eq!(shown(&planned(&[(&long, "")], &purse(310), &terms)), "0m0-300");
    assert_eq!(shown(&planned(&[(&long, "")], &purse(309), &terms)), "0m1-300");
    assert_eq!(shown(&planned(&[(&long, "")], &purse(295), &terms)), "0m12-300!");
    // Older than a day by four buckets.
    let old = format!("dddd{}dd", "s".repeat(286));
    assert_eq!(shown(&planned(&[(&old, "")], &purse(13), &terms)), "0m290-292! 0m3-4");
}

#[test]
fn a_long_hole_is_asked_for_in_parts_from_its_newest() {
    let terms = Terms { bars_max: 4, ..TERMS };
    assert_eq!(shown(&planned(&[("ddddqqdddd", "")], &purse(99), &terms)), "0m6-10! 0m0-6!");
    assert_eq!(shown(&planned(&[("dddddddddd", "")], &purse(99), &terms)), "0m6-10! 0m2-6! 0m0-2!");
}

#[test]
fn a_request_that_reaches_the_present_is_dearer() {
    let terms = Terms { reaching_now: 1, quarters: false, ..TERMS };
    let plan = planned(&[("ffffff", "")], &purse(6), &terms);
    assert_eq!((shown(&plan).as_str(), plan.points()), ("0m1-6", 6));
    assert!(plan.requests[0].reaches_now);
    let plan = planned(&[("ffffffs", "")], &purse(6), &terms);
    assert_eq!((shown(&plan).as_str(), plan.points()), ("0m0-6", 6));
}

#[test]
fn of_longer_bars_those_are_asked_for_that_will_not_be_derived() {
    check(&[("......fff", "fff")], 99, "0m6-9 0q0-6");
    check(&[("dddsdsllldqc", "ffff")], 99, "0m9-10! 0q6-9 0m4-5! 0m0-3!");
}

#[test]
fn a_null_price_that_stays_is_bought_as_fifteen_minutes() {
    let mut attempts = Attempts::default();
    let now = Now { event: at(6), wall: NOON };
    let long_ago = NOON.plus(-30 * 86_400);
    (0..8).for_each(|_| attempts.note(pair(0), Timeframe::M5, at(1)..at(2), long_ago));
    let plan_of = |m15: &str| plan(&[page(0, "snssss", m15)], &attempts, &purse(99), &TERMS, now);
    assert_eq!(shown(&plan_of("")), "0q0-3!");
    assert_eq!(shown(&plan_of("s")), "");
    assert_eq!(shown(&plan_of("q")), "");
}

#[test]
fn a_spent_allowance_is_probed_with_the_smallest_useful_request() {
    let refused = |refused| Purse { refused: Some(refused), ..purse(5_000) };
    let ledger = [("dddddd", ""), ("sdddds", "")];
    assert_eq!(shown(&planned(&ledger, &refused(Refused::Wait), &TERMS)), "");
    let probe = planned(&ledger, &refused(Refused::Probe), &TERMS);
    assert_eq!((shown(&probe).as_str(), probe.points()), ("0m5-6!", 1));
    // IG's numbers may be wrong: none left by them, and the probe is made all the same.
    let none_left = Purse { refused: Some(Refused::Probe), ..purse(0) };
    assert_eq!(shown(&planned(&ledger, &none_left, &TERMS)), "0m5-6!");
}

#[test]
fn the_first_start_of_all_pairs_costs_at_most_4750_points() {
    for reaching_now in [0, 1] {
        let terms = Terms { reaching_now, reserve: 1_000, incident_cap: 3_000, ..TERMS };
        let pages: Vec<Page> = (0..28)
            .map(|feed| {
                let mut page = page(0, "", "");
                page.feed = FeedIx(feed);
                // 100 buckets of 5 minutes, and before them what makes 100 of 15 minutes.
                let run = |timeframe: Timeframe, count: i64, end: Timestamp| crate::domain::coverage::Run {
                    span: end.plus(-count * timeframe.seconds())..end,
                    state: State::Missing,
                    reason: Reason::FirstStart,
                    evidence: "e".into(),
                };
                let now = Timeframe::M5.bucket(PRESENT.event);
                page.m5 = vec![run(Timeframe::M5, 100, now)];
                page.m15 = vec![run(Timeframe::M15, 67, now.plus(-100 * 300).ceil(900))];
                page
            })
            .collect();
        let plan = plan(&pages, &Attempts::default(), &purse(10_000), &terms, PRESENT);
        assert_eq!(plan.requests.len(), 56);
        assert!(plan.points() <= 4_750, "{}", plan.points());
        assert_eq!(plan.waiting, []);
    }
}

#[test]
fn what_is_missing_for_too_long_is_lost() {
    let give_up = GiveUp { after_s: 3_600, first_start_after_s: 2 * 3_600 };
    let check = |ledger: &str, m15: &str, now: i64, tries: u32, expected: &[(Timeframe, i64, i64)]| {
        let mut page = page(0, ledger, m15);
        if ledger.ends_with('d') {
            page.m5.last_mut().unwrap().reason = Reason::Requested;
        }
        let mut attempts = Attempts::default();
        (0..tries).for_each(|_| attempts.note(pair(0), Timeframe::M5, at(0)..at(1), NOON));
        let marks = given_up(&[page], &attempts, &[], give_up, at(now));
        let bucket = |time: Timestamp| time.since(NOON) / 300;
        let told: Vec<_> = marks
            .iter()
            .map(|mark| (mark.timeframe, bucket(mark.span.start), bucket(mark.span.end)))
            .collect();
        assert_eq!(told, expected, "{ledger} {m15} {now}");
        let reason = if ledger.starts_with('n') { Reason::NullLeg } else { Reason::GivenUp };
        assert!(marks.iter().all(|mark| (mark.state, mark.reason) == (State::Lost, reason)));
    };
    let (m5, m15) = (Timeframe::M5, Timeframe::M15);
    check("dddds", "", 14, 0, &[(m5, 0, 2)]);
    check("dddds", "", 12, 0, &[]);
    check("sssd", "", 99, 0, &[]);
    check("ffs", "ff", 24, 0, &[]);
    check("ffs", "ff", 27, 0, &[(m5, 0, 2), (m15, 0, 3)]);
    check("ns", "", 99, 7, &[]);
    check("ns", "", 99, 8, &[(m5, 0, 1)]);
}

#[test]
fn what_had_prices_and_was_reopened_is_tried_once_and_lost_as_what_it_was() {
    let give_up = GiveUp { after_s: 3_600, first_start_after_s: 3_600 };
    let check = |now: i64, tried: Option<Range<i64>>, expected: &[(Reason, i64, i64)]| {
        let mut attempts = Attempts::default();
        if let Some(tried) = tried {
            attempts.note(pair(0), Timeframe::M5, at(tried.start)..at(tried.end), NOON);
        }
        let reopened = [
            (pair(0), Timeframe::M5, at(0)..at(2)),
            (pair(1), Timeframe::M5, at(0)..at(9)),
            (pair(0), Timeframe::M15, at(0)..at(9)),
        ];
        let marks = given_up(&[page(0, "nuunds", "")], &attempts, &reopened, give_up, at(now));
        let bucket = |time: Timestamp| time.since(NOON) / 300;
        let told: Vec<_> =
            marks.iter().map(|mark| (mark.reason, bucket(mark.span.start), bucket(mark.span.end))).collect();
        assert_eq!(told, expected, "{now}");
    };
    let (seen, null, other) = (Reason::UnconfirmedClose, Reason::NullLeg, Reason::GivenUp);
    check(99, None, &[(seen, 2, 3), (other, 4, 5)]);
    check(99, Some(0..1), &[(null, 0, 1), (seen, 2, 3), (other, 4, 5)]);
    check(99, Some(0..6), &[(null, 0, 1), (seen, 1, 2), (seen, 2, 3), (other, 4, 5)]);
    check(5, Some(0..6), &[]);
}

#[test]
fn where_only_a_doubt_keeps_from_asking_a_single_bar_is_tried() {
    let ledger = [("dddddd", "")];
    let doubt = |remaining, in_doubt| planned(&ledger, &Purse { in_doubt, ..purse(remaining) }, &TERMS);
    assert_eq!((shown(&doubt(0, true)).as_str(), doubt(0, true).is_probe), ("0m5-6!", true));
    assert_eq!((shown(&doubt(0, false)).as_str(), doubt(0, false).is_probe), ("", false));
    assert!(!doubt(6, true).is_probe);
}

#[test]
fn an_outage_over_a_weekend_costs_its_open_part_and_is_one_incident() {
    // Friday 21:00 to Sunday 23:00 in winter: an hour, closed, the disputed hour, an hour.
    let friday = Timestamp(1_579_294_800);
    let calendar = Calendar::forex();
    let mut page = page(0, "", "");
    for (span, told) in calendar.runs(friday..friday.plus(50 * 3_600)) {
        let (state, reason) = match told {
            crate::domain::Expectation::Expected => (State::Missing, Reason::Disconnected),
            crate::domain::Expectation::Possible => (State::Closed, Reason::PossiblyOpen),
            crate::domain::Expectation::Closed => (State::Closed, Reason::Calendar),
        };
        page.m5.push(crate::domain::coverage::Run { span, state, reason, evidence: "e".into() });
    }
    let now = Now { event: friday.plus(50 * 3_600), wall: friday };
    let plan = plan(&[page], &Attempts::default(), &purse(99), &TERMS, now);
    assert_eq!(plan.points(), 24);
    assert_eq!(plan.requests.len(), 2);
    assert_eq!(plan.requests[0].incident, plan.requests[1].incident);
}

/// The least points for which every missing bucket of both lengths can be had, found by trying all
/// ways: each bucket of a length is asked for or not.
fn optimum(m5: &str, m15: &str) -> u32 {
    let (short, long): (Vec<char>, Vec<char>) = (m5.chars().collect(), m15.chars().collect());
    let is_missing = |letter: char| "dun".contains(letter);
    let mut best = u32::MAX;
    for asked in 0u32..1 << (short.len() + long.len()) {
        let of = |ix: usize| asked >> ix & 1 == 1;
        let asks_for_stored = (0..short.len()).any(|ix| of(ix) && short[ix] == 's')
            || (0..long.len()).any(|ix| of(short.len() + ix) && long[ix] == 's');
        // A longer bar is folded when a part of it comes.
        let has = |ix: usize| of(ix) || "sqc".contains(short[ix]);
        let healed = (0..short.len()).all(|ix| !is_missing(short[ix]) || of(ix))
            && (0..long.len()).all(|ix| {
                !is_missing(long[ix])
                    || of(short.len() + ix)
                    || (3 * ix..3 * ix + 3).all(has) && (3 * ix..3 * ix + 3).any(of)
            });
        if healed && !asks_for_stored {
            best = best.min(asked.count_ones());
        }
    }
    best
}

fn letters(of: &'static str, length: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(of.chars().collect::<Vec<_>>()), length)
        .prop_map(|letters| letters.into_iter().collect())
}

/// The 5-minute buckets of a request, or of all, by feed.
fn buckets(requests: &[Request], timeframe: Timeframe) -> Vec<(FeedIx, Timestamp)> {
    let of_length = requests.iter().filter(|request| request.timeframe == timeframe);
    of_length
        .flat_map(|request| {
            let step = timeframe.seconds();
            (request.span.start.0..request.span.end.0)
                .step_by(step as usize)
                .map(|start| (request.feed, Timestamp(start)))
        })
        .collect()
}

proptest! {
    /// What it costs to heal a small ledger wholly is the least that it can cost.
    #[test]
    fn a_plan_costs_no_more_than_it_must(m5 in letters("sssddunql.", 9), m15 in letters("..sd", 3)) {
        let plan = planned(&[(&m5, &m15)], &purse(10_000), &TERMS);
        prop_assert_eq!(plan.waiting, []);
        let points: u32 = plan.requests.iter().map(|request| request.points).sum();
        prop_assert_eq!(points, optimum(&m5, &m15), "{} {} {:?}", m5, m15, plan.requests);
    }

    /// Never a stored bucket, never over the budget, never a bucket twice, newest first.
    #[test]
    fn every_plan_keeps_the_rules(
        ledgers in prop::collection::vec((letters("ssdddunfql.", 30), letters("...sqd", 10)), 1..4),
        remaining in 0u32..80, reserve in 0u32..20, incident_cap in 0u32..40, bars_max in 1u32..9,
        reaching_now in 0u32..2, soon: bool, spent in prop::collection::vec((0i64..30, 1i64..9, 0u32..9), 0..3),
    ) {
        let terms = Terms { reserve, incident_cap, bars_max, quarters: true, reaching_now };
        let spent: Vec<_> = spent.into_iter().map(|(from, n, points)| (at(from)..at(from + n), points)).collect();
        let purse = Purse { renews_in_s: soon.then_some(60), spent: spent.clone(), ..purse(remaining) };
        let texts: Vec<(&str, &str)> = ledgers.iter().map(|(m5, m15)| (m5.as_str(), m15.as_str())).collect();
        let plan = planned(&texts, &purse, &terms);
        let pages: Vec<Page> =
            texts.iter().enumerate().map(|(feed, (m5, m15))| page(feed as u16, m5, m15)).collect();

        let mut left = remaining;
        for request in &plan.requests {
            left = left.checked_sub(request.points).expect("within the budget");
            prop_assert!(request.urgent || left >= reserve, "the reserve is left alone");
            let own = buckets(std::slice::from_ref(request), request.timeframe);
            let costing = own.iter().filter(|(feed, start)| {
                let known = pages[usize::from(feed.0)].at(request.timeframe, *start);
                known.is_none_or(|run| run.state != State::Quiet)
            });
            prop_assert!(costing.count() as u32 <= bars_max.min(request.points));
        }
        for timeframe in [Timeframe::M5, Timeframe::M15] {
            let asked = buckets(&plan.requests, timeframe);
            for (ix, (feed, start)) in asked.iter().enumerate() {
                let known = pages[usize::from(feed.0)].at(timeframe, *start);
                prop_assert!(known.is_none_or(|run| run.state != State::Stored), "{} is stored", start);
                prop_assert!(!asked[..ix].contains(&(*feed, *start)), "{} is asked for twice", start);
            }
        }
        // No incident gets more than its share.
        for incident in incidents(&pages) {
            let (_, before) = so_far(&incident, &spent);
            let of_incident = |request: &&Request| request.incident.as_ref() == Some(&incident);
            let on_it: Vec<Request> = plan.requests.iter().filter(of_incident).cloned().collect();
            let points: u32 = on_it.iter().map(|request| request.points).sum();
            prop_assert!(points <= incident_cap.saturating_sub(before));
            // Of one incident no bucket waits that is newer than one that is asked for.
            let asked: BTreeSet<(FeedIx, Timestamp)> =
                buckets(&plan.requests, Timeframe::M5).into_iter().collect();
            let oldest_asked = buckets(&on_it, Timeframe::M5).into_iter().map(|(_, start)| start).min();
            for page in &pages {
                for run in page.missing(Timeframe::M5, &incident).filter(|run| matches!(Kind::of(run.reason), Kind::Lost | Kind::NullLeg)) {
                    for start in (run.span.start.0..run.span.end.0).step_by(300).map(Timestamp) {
                        if oldest_asked.is_some_and(|oldest| start > oldest) {
                            prop_assert!(asked.contains(&(page.feed, start)), "{} waits", start);
                        }
                    }
                }
            }
        }
        let ends: Vec<Timestamp> = plan.requests.iter().map(|request| request.span.end).collect();
        prop_assert!(ends.is_sorted_by(|one, next| one >= next), "newest first");
    }
}
