"""Reads candlekeep's bars into pandas: from its SQLite file, its PostgreSQL database, or over HTTP.

    from candlekeep import get_candles

    bars = get_candles("EUR_USD", "5", 100, max_age=360, complete=True)

Copy this file beside your bot. It needs Python 3.9 and pandas; psycopg (version 3) for PostgreSQL alone.
"""

from __future__ import annotations

import datetime as dt
import http.client
import itertools
import json
import logging
import os
import random
import re
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

import pandas as pd

log = logging.getLogger("candlekeep")

#: Where the service serves, and where its database is, when nothing else is said.
DEFAULT_URL = "sqlite://candlekeep.db"
#: Columns of the frames that are answered.
COLUMNS = ["time", "open", "high", "low", "close", "volume"]
#: Bars of one answer over HTTP.
HTTP_COUNT_MAX = 10_000
#: Seconds of the ledger of one answer over HTTP.
HTTP_LEDGER_MAX_S = 366 * 86_400
#: Seconds that a database or the service may take to answer, or to let go of a lock.
ANSWER_WITHIN_S = 10
#: Seconds to wait for what was asked to be fetched, where nobody says how many.
FETCH_WITHIN_S = 60.0
#: Seconds between looks at a database, or at what became of a request.
LOOK_EVERY_S = 1.0
#: Seconds without a word, not even a keepalive, after which an event stream is taken for dead.
SILENCE_MAX_S = 45
#: Bytes of a line of it.
LINE_MAX = 1 << 20
#: First and longest pause between attempts to reach what does not answer, seconds.
PAUSES_S = (0.5, 30.0)
#: Rows of one look at a database for what is new.
PAGE_MAX = 1_000
#: Stretches that are asked for at a time, and holes that an error's text lists.
SPANS_MAX, SHOWN_MAX = 20, 5
#: Requests that may be open at a time: the service's own bound.
OPEN_REQUESTS_MAX = 1_000
#: A bucket that is over is not missed for so long: the service may be about to store, or to fetch, it.
SETTLING_S = 60
#: A forex market is shut for most of this part of a week, for lack of a calendar: epoch seconds of a Friday
#: 21:00 and the Sunday 22:00 after it, UTC.
WEEKEND, WEEK_S = (162_000, 338_400), 604_800

Span = Tuple[int, int]


class CandlekeepError(Exception):
    """Whatever goes wrong here."""


class Unavailable(CandlekeepError):
    """The database or the service is not there, or does not answer; it may later."""


class Locked(Unavailable):
    """The database is locked by another process."""


class Denied(CandlekeepError):
    """The database or the service does not let us read, or ask for bars to be fetched."""


class WrongSchema(CandlekeepError):
    """The database is there and is not candlekeep's, or a newer module wants a newer one."""


class BadRequest(CandlekeepError):
    """The service does not understand the question."""


class UnknownPair(CandlekeepError):
    """The pair is not collected. `known` lists those that are."""

    def __init__(self, pair: str, known: Sequence[str]) -> None:
        self.pair, self.known = pair, sorted(known)
        super().__init__(f"{pair} is not collected here; these are: {', '.join(self.known) or 'none yet'}")


class UnknownTimeframe(CandlekeepError):
    """No bars of that length are kept. `known` lists the lengths that are."""

    def __init__(self, timeframe: str, known: Sequence[str]) -> None:
        self.timeframe, self.known = timeframe, list(known)
        super().__init__(f"no bars of {timeframe} minutes are kept here; there are: {', '.join(known)}")


class NoData(CandlekeepError):
    """The pair is collected, and no bar of it is stored yet."""


class Stale(CandlekeepError):
    """The newest bar is too old: `last` is its start, epoch seconds, `age_s` its age in market time."""

    def __init__(self, what: str, last: int, age_s: float, max_age_s: float) -> None:
        self.last, self.age_s = last, age_s
        super().__init__(
            f"{what}: the newest bar is that of {_text(last)}, which ended {age_s:.0f} s of market time ago;"
            f" max_age is {max_age_s:.0f} s"
        )


class Hole(NamedTuple):
    """A run of 5-minute buckets without the bars that they should have: epoch seconds, half-open."""

    start: int
    end: int
    state: str
    reason: str

    def __str__(self) -> str:
        return f"{_text(self.start)} to {_text(self.end)} is {self.state} ({self.reason})"


class Incomplete(CandlekeepError):
    """Bars are missing. `holes` says where and why; `stored` is how many of those asked for there are."""

    def __init__(self, what: str, stored: int, count: int, holes: Sequence[Hole]) -> None:
        self.stored, self.count, self.holes = stored, count, list(holes)
        few = [f"only {stored} of {count} bars are stored"] if stored < count else []
        listed = [str(hole) for hole in holes[:SHOWN_MAX]]
        more = [f"{len(holes) - SHOWN_MAX} more holes"] if len(holes) > SHOWN_MAX else []
        super().__init__(f"{what}: {'; '.join(few + listed + more)}")


@dataclass(frozen=True)
class Event:
    """What `follow` tells: a bar that was stored or corrected, or that bars may have been passed over."""

    #: `candle`, `revision` or `reset`.
    kind: str
    #: Its place in the order of commits: to go on from.
    seq: int
    #: The bar: `pair`, `timeframe`, `time` (epoch seconds), `open` … `volume`, `bid`, `ask`, `source`, `revision`;
    #: of a reset the `reason`.
    data: Dict[str, Any]


def get_candles(
    pair: str,
    timeframe: Union[str, int],
    count: int = 100,
    *,
    url: Optional[str] = None,
    price: str = "mid",
    max_age: Union[None, float, dt.timedelta] = None,
    complete: bool = False,
    utc: bool = False,
    fetch: Union[bool, float] = False,
    now: Optional[float] = None,
    token_file: Optional[str] = None,
) -> pd.DataFrame:
    """The newest `count` settled bars, ascending, as `time, open, high, low, close, volume`.

    `time` is the start of a bar, UTC: naive, or aware with `utc`. The frame's `attrs["seq"]` is where to go on with
    `follow`.

    url         `sqlite://file.db`, `sqlite:////absolute/file.db`, `postgres://user@host/name` or
                `http://127.0.0.1:8017`; else $DATABASE_URL, else $CANDLEKEEP_HTTP, else `sqlite://candlekeep.db`
    price       `mid`, `bid` or `ask`
    max_age     raises Stale if the newest bar ended longer ago than this, in seconds of market time. Hours in
                which the market is closed, and buckets that are proved to be quiet, do not count. The next bar is
                stored within a bar's length and 60 s, so 360 is for 5-minute bars what 960 is for 15-minute ones
    complete    raises Incomplete if there are fewer bars than asked for, or the ledger knows of a hole after the
                first of them
    fetch       what is missing is asked for first, as `candlekeep candles --fetch` does it, and waited for: a
                minute, or as many seconds as this says. What cannot be had is judged by `complete`. It costs
                IG's points: for the start of a bot rather than for each bar
    now         what time it is, epoch seconds, for replays; with CANDLEKEEP_CLOCK=stream that of the newest bucket
    token_file  the file with HTTP's token; else $CANDLEKEEP_HTTP_TOKEN_FILE

    Raises UnknownPair, UnknownTimeframe, NoData, Stale, Incomplete, or Unavailable (Locked), Denied and WrongSchema
    where nothing can be read; ValueError where the question makes no sense.
    """
    pair, timeframe = _pair(pair), _timeframe(timeframe)
    what, step = f"{pair} {timeframe}", int(timeframe) * 60
    if count < 1:
        raise ValueError(f"count is at least 1, not {count}")
    if price not in ("mid", "bid", "ask"):
        raise ValueError(f"price is mid, bid or ask, not {price!r}")
    place = _place(url)
    note = ""
    with _source(place, token_file) as source:
        bars, holes = source.bars(pair, timeframe, count, price)
        # What is lost was asked for in vain.
        wanted = [hole for hole in holes if hole.state != "lost"]
        if fetch and (wanted or len(bars) < count):
            within_s = FETCH_WITHIN_S if fetch is True else float(fetch)
            note = _fetch(source, pair, timeframe, count, len(bars) < count, wanted, within_s)
            bars, holes = source.bars(pair, timeframe, count, price)
        if not bars:
            raise _noting(NoData(f"{what}: no bar is stored yet"), note)
        if complete and (holes or len(bars) < count):
            raise _noting(Incomplete(what, len(bars), count, holes), note)
        if max_age is not None:
            max_age_s = max_age.total_seconds() if isinstance(max_age, dt.timedelta) else float(max_age)
            last = bars[-1].time
            age_s = source.age_s(pair, timeframe, last + step, source.now() if now is None else now)
            if age_s > max_age_s:
                raise _noting(Stale(what, last, age_s, max_age_s), note)
    frame = pd.DataFrame([bar[:6] for bar in bars], columns=COLUMNS)
    times = pd.to_datetime(frame["time"], unit="s", utc=True).astype("datetime64[ns, UTC]")
    frame["time"] = times if utc else times.dt.tz_localize(None)
    frame = frame.astype({**dict.fromkeys(COLUMNS[1:5], "float64"), "volume": "int64"})
    frame.attrs.update(pair=pair, timeframe=timeframe, price=price, seq=max(bar.seq for bar in bars))
    return frame


def follow(
    pairs: Sequence[str],
    timeframes: Sequence[Union[str, int]],
    *,
    url: Optional[str] = None,
    after: Optional[int] = None,
    token_file: Optional[str] = None,
) -> Iterator[Event]:
    """Every bar as it is stored or corrected, once and in order, for ever.

    `after` is the `seq` to go on from; without it, bars that are stored from now on are told. Over HTTP the service
    pushes them; a database is looked at once a second. What does not answer is tried again, ever more rarely, and
    nothing is left out meanwhile. A `reset` says that something may have been all the same, since the database is
    another one, or does not reach back so far: read anew what you keep.

    Raises UnknownPair, UnknownTimeframe, BadRequest, Denied or WrongSchema; never Unavailable.
    """
    place = _place(url)
    wanted = [_pair(pair) for pair in pairs], [_timeframe(timeframe) for timeframe in timeframes]
    if not all(wanted):
        raise ValueError("follow wants at least one pair and one timeframe")
    told = _pushed if place.startswith(("http://", "https://")) else _polled
    pause_s = PAUSES_S[0]
    while True:
        try:
            for event in told(place, token_file, *wanted, after):
                # A word from the other side, be it only where it stands.
                pause_s = PAUSES_S[0]
                if after is not None and event.seq <= after and event.kind != "reset":
                    continue
                after = event.seq
                if event.kind in ("candle", "revision", "reset"):
                    yield event
            cause: object = "the stream has ended"
        except Unavailable as error:
            cause = error
        log.warning("trying again in %.1f s: %s", pause_s, cause)
        time.sleep(pause_s * random.uniform(0.8, 1.2))
        pause_s = min(2 * pause_s, PAUSES_S[1])


# What is asked for.


def _pair(text: str) -> str:
    letters = re.sub(r"[\s_/-]", "", text).upper()
    if not re.fullmatch("[A-Z]{6}", letters):
        raise ValueError(f"not a pair: {text!r}; write EUR_USD")
    return f"{letters[:3]}_{letters[3:]}"


def _timeframe(text: Union[str, int]) -> str:
    minutes = {"1h": "60"}.get(str(text).strip().lower(), str(text).strip().lower().removesuffix("m"))
    if minutes not in ("5", "10", "15", "30", "60"):
        raise ValueError(f"not a timeframe: {text!r}; it is 5, 10, 15, 30 or 60 minutes")
    return minutes


def _place(url: Optional[str]) -> str:
    if url is None:
        listen = os.environ.get("CANDLEKEEP_HTTP", "")
        http_url = f"http://{listen}" if listen not in ("", "off") else ""
        url = os.environ.get("DATABASE_URL") or http_url or DEFAULT_URL
    url = url.strip()
    if not url.startswith(("sqlite://", "postgres://", "postgresql://", "http://", "https://")):
        raise ValueError("not an address: write sqlite://file.db, postgres://user@host/name or http://127.0.0.1:8017")
    return url.rstrip("/") if url.startswith("http") else url


def _is_replayed() -> bool:
    """The market's time is not now."""
    return os.environ.get("CANDLEKEEP_CLOCK") == "stream"


def _text(epoch_s: int) -> str:
    return dt.datetime.fromtimestamp(epoch_s, dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _noting(error: CandlekeepError, note: str) -> CandlekeepError:
    """The error, with what became of a request to fetch."""
    if note:
        error.args = (f"{error}; {note}",)
    return error


# Stretches of time.


def _minus(spans: Iterable[Span], cuts: Iterable[Span]) -> List[Span]:
    """What is left of stretches without others."""
    left = [span for span in spans if span[0] < span[1]]
    for start, end in cuts:
        parts = [((a, min(b, start)), (max(a, end), b)) for a, b in left]
        left = [part for both in parts for part in both if part[0] < part[1]]
    return left


def _weekends(start: int, end: int) -> List[Span]:
    first, last = ((edge - WEEKEND[0]) // WEEK_S for edge in (start, end))
    return [(WEEKEND[0] + week * WEEK_S, WEEKEND[1] + week * WEEK_S) for week in range(first, last + 1)]


def _back(end: int, count: int, step: int) -> int:
    """Where the last `count` bars before `end` begin, if none is missing."""
    start, left_s = end, count * step
    while left_s > 0:
        open_s = sum(b - a for a, b in _minus([(start - left_s, start)], _weekends(start - left_s, start)))
        start, left_s = start - left_s, left_s - open_s
    return start - start % step


# Where it is read from. A source has one state of the database for as long as it is open.


class _Bar(NamedTuple):
    time: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    seq: int


class _Source:
    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def renew(self) -> None:
        """What is read from here on is as it is now."""

    def bars(self, pair: str, timeframe: str, count: int, price: str) -> Tuple[List[_Bar], List[Hole]]:
        """The newest bars, and what the ledger knows to be missing from where they begin on."""
        raise NotImplementedError

    def expected_by(self, pair: str, timeframe: str) -> Optional[int]:
        """When the next bar ought to be stored at the latest; none where nobody says."""
        raise NotImplementedError

    def ledger(self, pair: str, start: int, end: int) -> List[Hole]:
        """What is known of the 5-minute buckets of a stretch, in runs."""
        raise NotImplementedError

    def newest_end(self) -> int:
        """The end of the newest bucket of any pair."""
        raise NotImplementedError

    def ask(self, pair: str, timeframe: str, spans: List[Span]) -> Callable[[], Tuple[bool, str]]:
        """Has bars fetched. What is answered tells, whenever it is called, whether it is over, and how it stands."""
        raise NotImplementedError

    def now(self) -> float:
        return self.newest_end() if _is_replayed() else time.time()

    def age_s(self, pair: str, timeframe: str, end: int, now: float) -> float:
        """How long ago, in market time, a bar ended that is the newest."""
        step = int(timeframe) * 60
        due = self.expected_by(pair, timeframe)
        if due:
            # A bucket's length and less than that after the start of the first bucket that owes a bar: the
            # service knows when the market is open.
            return max(0, now - max(end, (due - step) // step * step))
        idle = [run[:2] for run in self.ledger(pair, end, int(now)) if run.state in ("closed", "quiet")]
        return sum(b - a for a, b in _minus([(end, int(now))], idle))


def _source(place: str, token_file: Optional[str] = None) -> _Source:
    if place.startswith("http"):
        return _Http(place, token_file)
    return _Sqlite(place) if place.startswith("sqlite") else _Postgres(place)


class _Sql(_Source):
    """A database. The two differ in how they are opened, in how parameters are marked, and in their errors."""

    mark = "?"

    def rows(self, sql: str, *values: object) -> List[Any]:
        raise NotImplementedError

    def write(self, work: Callable[[Callable[..., List[Any]]], Any]) -> Any:
        """Runs `work` in one transaction of a connection that may write."""
        raise NotImplementedError

    def bars(self, pair: str, timeframe: str, count: int, price: str) -> Tuple[List[_Bar], List[Hole]]:
        side = "" if price == "mid" else f"{price}_"
        rows = self.rows(
            f"SELECT timestamp, {side}open, {side}high, {side}low, {side}close, volume, seq FROM candles"
            " WHERE pair=? AND timeframe=? ORDER BY timestamp DESC LIMIT ?",
            pair,
            timeframe,
            count,
        )
        bars = [_Bar(*row) for row in reversed(rows)]
        if not bars:
            self.check_known(pair, timeframe)
            return [], []
        step = int(timeframe) * 60
        end = bars[-1].time + step
        start = bars[0].time if len(bars) == count else min(bars[0].time, _back(end, count, step))
        until = (int(self.now()) - (0 if _is_replayed() else SETTLING_S)) // 300 * 300
        runs = self.ledger(pair, start, max(end, until))
        return bars, _holes(runs, {bar.time for bar in bars}, step, (start, end))

    def check_known(self, pair: str, timeframe: str) -> None:
        """Raises where a pair, or a length of bars, is not collected."""
        # One step of the index a pair: DISTINCT would read every bar.
        walk = (
            "WITH RECURSIVE walk(name) AS (SELECT min({0}) FROM candles{1} UNION ALL SELECT (SELECT min({0})"
            " FROM candles WHERE {2}{0} > walk.name) FROM walk WHERE walk.name IS NOT NULL)"
            " SELECT name FROM walk WHERE name IS NOT NULL"
        )
        stored = {name for (name,) in self.rows(walk.format("pair", "", ""))}
        watched = {name for (name,) in self.rows("SELECT DISTINCT pair FROM feeds WHERE watched_to IS NULL")}
        if pair not in stored | watched:
            raise UnknownPair(pair, list(stored | watched))
        lengths = [name for (name,) in self.rows(walk.format("timeframe", " WHERE pair=?", "pair=? AND "), pair, pair)]
        if lengths and timeframe not in lengths:
            raise UnknownTimeframe(timeframe, sorted(lengths, key=int))

    def expected_by(self, pair: str, timeframe: str) -> Optional[int]:
        if not self.has_freshness():
            return None
        rows = self.rows("SELECT expected_by FROM freshness WHERE pair=? AND timeframe=?", pair, timeframe)
        return rows[0][0] if rows else None

    def has_freshness(self) -> bool:
        raise NotImplementedError

    def ledger(self, pair: str, start: int, end: int) -> List[Hole]:
        rows = self.rows(
            "SELECT from_ts, to_ts, state, reason FROM coverage"
            " WHERE pair=? AND timeframe='5' AND to_ts > ? AND from_ts < ? ORDER BY from_ts",
            pair,
            start,
            end,
        )
        return [Hole(max(a, start), min(b, end), state, reason) for a, b, state, reason in rows]

    def newest_end(self) -> int:
        return self.rows("SELECT max(to_ts) FROM coverage WHERE timeframe='5'")[0][0] or int(time.time())

    def ask(self, pair: str, timeframe: str, spans: List[Span]) -> Callable[[], Tuple[bool, str]]:
        def work(rows: Callable[..., List[Any]]) -> List[int]:
            ids, now = [], int(time.time())
            for start, end in spans:
                same = rows(
                    "SELECT id FROM fetch_requests WHERE state IN ('asked', 'taken')"
                    " AND pair=? AND timeframe=? AND from_ts=? AND to_ts=?",
                    *(pair, timeframe, start, end),
                )
                if not same:
                    (still_open,) = rows("SELECT count(*) FROM fetch_requests WHERE state IN ('asked', 'taken')")[0]
                    if still_open >= OPEN_REQUESTS_MAX:
                        raise Unavailable(f"{still_open} requests to fetch are open already")
                    same = rows(
                        "INSERT INTO fetch_requests"
                        " (pair, timeframe, from_ts, to_ts, state, note, asked_at, updated_at)"
                        " VALUES (?, ?, ?, ?, 'asked', '', ?, ?) RETURNING id",
                        *(pair, timeframe, start, end, now, now),
                    )
                ids.append(same[0][0])
            return ids

        ids = self.write(work)

        def look() -> Tuple[bool, str]:
            self.renew()
            marks = ",".join("?" * len(ids))
            rows = self.rows(f"SELECT state, note FROM fetch_requests WHERE id IN ({marks})", *ids)
            return _outcome([{"state": state, "note": note} for state, note in rows])

        return look


def _holes(runs: List[Hole], stored: Set[int], step: int, span: Span) -> List[Hole]:
    """What keeps a stretch from being complete, by the rules of the service (`completeness.rs`)."""
    unknown = _minus([span], [run[:2] for run in runs])
    unknown = _minus(unknown, _weekends(*span))
    holes = [run for run in runs if run.state in ("missing", "lost")]
    holes += [Hole(a, b, "missing", "not_reached") for a, b in unknown]

    def lacks_a_bar(run: Hole) -> List[int]:
        return [start for start in range(run.start - run.start % step, run.end, step) if start not in stored]

    def is_half_told(start: int) -> bool:
        return any(run.state == "stored" and run.start < start + step and run.end > start for run in runs)

    if step > 300:
        # A longer bar that is there lacks nothing; one is folded from proof alone.
        doubtful = [run for run in runs if run.reason == "possibly_open"]
        holes += [run for run in doubtful if any(map(is_half_told, lacks_a_bar(run)))]
        holes = [hole for hole in holes if lacks_a_bar(hole)]
    return sorted(holes)


class _Sqlite(_Sql):
    def __init__(self, place: str) -> None:
        path = place[len("sqlite://") :]
        self.path = os.path.abspath(path[1:] if path.startswith("//") else path)
        if not os.path.exists(self.path):
            raise Unavailable(f"there is no database {self.path}; is the path right, and has `candlekeep run` run?")
        self.db = self.open("ro")
        try:
            self.rows("PRAGMA query_only = ON")
            self.renew()
        except CandlekeepError:
            self.close()
            raise

    def open(self, mode: str) -> sqlite3.Connection:
        try:
            uri = f"file:{urllib.parse.quote(self.path)}?mode={mode}"
            return sqlite3.connect(uri, uri=True, timeout=ANSWER_WITHIN_S, isolation_level=None)
        except sqlite3.Error as error:
            self.fail(error)

    def close(self) -> None:
        self.db.close()

    def renew(self) -> None:
        # No transaction is left open: the writer's log cannot shrink under it.
        if self.db.in_transaction:
            self.rows("ROLLBACK")
        self.rows("BEGIN")

    def rows(self, sql: str, *values: object) -> List[Any]:
        return self.run(self.db, sql, *values)

    def run(self, db: sqlite3.Connection, sql: str, *values: object) -> List[Any]:
        try:
            return db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self.fail(error)

    def fail(self, error: sqlite3.Error) -> NoReturn:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise Locked(f"{self.path} is locked by another process for more than {ANSWER_WITHIN_S} s") from error
        if "no such" in text or "not a database" in text:
            raise WrongSchema(f"{self.path} is no database of candlekeep's, or an older one: {text}") from error
        if "readonly" in text or "unable to open" in text:
            raise Denied(f"{self.path} cannot be opened: {text}; is its user's group yours?") from error
        raise Unavailable(f"{self.path} cannot be read: {text}") from error

    def has_freshness(self) -> bool:
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = 'freshness'"))

    def write(self, work: Callable[[Callable[..., List[Any]]], Any]) -> Any:
        # `self.db` stays open meanwhile, so that this is not the last connection, which would take the log away that
        # readers without a right to write need.
        db = self.open("rw")
        try:
            self.run(db, "BEGIN IMMEDIATE")
            answer = work(lambda sql, *values: self.run(db, sql, *values))
            self.run(db, "COMMIT")
            return answer
        finally:
            db.close()


class _Postgres(_Sql):
    mark = "%s"

    def __init__(self, place: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise CandlekeepError('PostgreSQL needs psycopg: pip install "psycopg[binary]"') from error
        self.psycopg, self.place = psycopg, place
        self.db = self.open()
        self.db.read_only = True
        self.db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    def open(self) -> Any:
        try:
            # Nothing is prepared: a pooler hands connections on.
            return self.psycopg.connect(self.place, connect_timeout=ANSWER_WITHIN_S, prepare_threshold=None)
        except self.psycopg.Error as error:
            self.fail(error)

    def close(self) -> None:
        self.db.close()

    def renew(self) -> None:
        try:
            self.db.rollback()
        except self.psycopg.Error as error:
            self.fail(error)

    def rows(self, sql: str, *values: object) -> List[Any]:
        if self.db.info.transaction_status == self.psycopg.pq.TransactionStatus.IDLE:
            self.run(self.db, f"SET LOCAL statement_timeout = '{ANSWER_WITHIN_S}s'")
        return self.run(self.db, sql, *values)

    def run(self, db: Any, sql: str, *values: object) -> List[Any]:
        try:
            cursor = db.execute(sql.replace("?", self.mark), values or None)
            return cursor.fetchall() if cursor.description else []
        except self.psycopg.Error as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        errors, text = self.psycopg.errors, str(error).strip()
        if isinstance(error, (errors.UndefinedTable, errors.UndefinedColumn)):
            raise WrongSchema(f"the database is not candlekeep's, or an older one: {text}") from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise Denied(f"{text}; see GRANT in README, PostgreSQL") from error
        if isinstance(error, errors.LockNotAvailable):
            raise Locked(text) from error
        raise Unavailable(f"PostgreSQL does not answer: {text}") from error

    def has_freshness(self) -> bool:
        return self.rows("SELECT to_regclass('freshness')")[0][0] is not None

    def write(self, work: Callable[[Callable[..., List[Any]]], Any]) -> Any:
        db = self.open()
        try:
            answer = work(lambda sql, *values: self.run(db, sql, *values))
            db.commit()
            return answer
        finally:
            db.close()


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the token is for the address that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Http(_Source):
    def __init__(self, place: str, token_file: Optional[str]) -> None:
        self.place = place
        self.headers: Dict[str, str] = {}
        token_file = token_file or os.environ.get("CANDLEKEEP_HTTP_TOKEN_FILE")
        if token_file:
            try:
                with open(token_file, encoding="utf-8") as file:
                    self.headers["Authorization"] = f"Bearer {file.read().strip()}"
            except OSError as error:
                raise Denied(f"the token cannot be read: {error}") from error
        # The service is near: no proxy of the environment's is asked, nor shown the token.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)

    def open(
        self, path: str, headers: Dict[str, str], body: Optional[bytes] = None, within_s: float = ANSWER_WITHIN_S
    ) -> Any:
        request = urllib.request.Request(self.place + path, data=body, headers={**self.headers, **headers})
        try:
            return self.opener.open(request, timeout=within_s)
        except urllib.error.HTTPError as error:
            return error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise Unavailable(f"{self.place} does not answer: {why}; is `candlekeep run` running?") from error

    def read(self, answer: Any) -> Any:
        """What an answer says, be it an error."""
        try:
            with answer:
                return json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if getattr(answer, "status", 200) != 200:
                return {"reason": f"{self.place} answers {answer.status}"}
            raise Unavailable(f"{self.place} broke off its answer: {error}") from error

    def fail(self, status: int, told: Any, asked: Dict[str, Any]) -> NoReturn:
        reason = told.get("reason", f"{self.place} answers {status}")
        if "pairs" in told:
            raise UnknownPair(asked.get("pair", "that pair"), told["pairs"])
        if "timeframes" in told:
            raise UnknownTimeframe(asked.get("timeframe", "so many"), told["timeframes"])
        if status in (401, 403, 421):
            raise Denied(f"{reason}; see http.token_file and http.allowed_hosts in README")
        if status in (408, 429) or status >= 500:
            raise Unavailable(reason)
        raise BadRequest(reason)

    def ask_for(self, path: str, query: Dict[str, Any], body: Optional[bytes] = None) -> Any:
        text = urllib.parse.urlencode(query)
        answer = self.open(f"{path}?{text}" if text else path, {"Content-Type": "application/json"}, body)
        told = self.read(answer)
        if answer.status >= 300:
            self.fail(answer.status, told, query)
        return told

    def bars(self, pair: str, timeframe: str, count: int, price: str) -> Tuple[List[_Bar], List[Hole]]:
        if count > HTTP_COUNT_MAX:
            raise ValueError(f"over HTTP count is at most {HTTP_COUNT_MAX}: read the database for more")
        told = self.ask_for("/v1/candles", {"pair": pair, "timeframe": timeframe, "count": count, "price": price})
        bars = [_Bar(*(bar[name] for name in _Bar._fields)) for bar in told["candles"]]
        if not bars:
            return [], []
        end = bars[-1].time + int(timeframe) * 60
        holes = [Hole(hole["from"], hole["to"], hole["state"], hole["reason"]) for hole in told["missing"]]
        # What the service has not got to yet is a matter of age.
        return bars, [hole for hole in holes if hole.reason != "not_reached" or hole.start < end]

    def expected_by(self, pair: str, timeframe: str) -> Optional[int]:
        for entry in self.ready():
            if (entry["pair"], entry["timeframe"]) == (pair, timeframe):
                return int(entry["expected_by"] or 0)
        return None

    def ready(self) -> Any:
        """What `/readyz` says of each pair, ready or not."""
        answer = self.open("/readyz", {})
        told = self.read(answer)
        if "pairs" not in told:
            self.fail(answer.status, told, {})
        return told["pairs"]

    def ledger(self, pair: str, start: int, end: int) -> List[Hole]:
        if start >= end:
            return []
        end = min(end, start + HTTP_LEDGER_MAX_S)
        told = self.ask_for("/v1/coverage", {"pair": pair, "timeframe": "5", "from": start, "to": end})
        return [Hole(run["from"], run["to"], run["state"], run["reason"]) for run in told["runs"]]

    def newest_end(self) -> int:
        ends = [entry["last"] + int(entry["timeframe"]) * 60 for entry in self.ready() if entry["last"]]
        return max(ends, default=int(time.time()))

    def ask(self, pair: str, timeframe: str, spans: List[Span]) -> Callable[[], Tuple[bool, str]]:
        wanted = [{"pair": pair, "timeframe": timeframe, "from": start, "to": end} for start, end in spans]
        numbers = [self.ask_for("/v1/fetch", {}, json.dumps(body).encode())["id"] for body in wanted]
        return lambda: _outcome([self.ask_for(f"/v1/fetch/{number}", {}) for number in numbers])


def _outcome(requests: Sequence[Dict[str, Any]]) -> Tuple[bool, str]:
    """Whether requests are over, and how they stand."""
    over = all(request["state"] in ("done", "refused") for request in requests)
    told = {", ".join(filter(None, (request["state"], request["note"]))) for request in requests}
    return over, "; ".join(sorted(told))


def _fetch(
    source: _Source, pair: str, timeframe: str, count: int, is_short: bool, holes: List[Hole], within_s: float
) -> str:
    """Asks for what is missing, and waits. Answers how it stands then, for people."""
    step = int(timeframe) * 60
    spans = [(hole.start - hole.start % step, -(-hole.end // step) * step) for hole in holes[-SPANS_MAX:]]
    if is_short:
        end = int(source.now()) // step * step
        spans = [(_back(end, count, step), end)]
    look = source.ask(pair, timeframe, sorted(set(spans)))
    deadline = time.monotonic() + within_s
    while True:
        over, how = look()
        if over:
            return f"asked for it to be fetched: {how}"
        if time.monotonic() >= deadline:
            hint = "; is `candlekeep run` running?" if how == "asked" else ""
            return f"asked for it to be fetched: {how} after {within_s:.0f} s{hint}"
        time.sleep(min(LOOK_EVERY_S, within_s))


# What is new.


def _polled(
    place: str, _: Optional[str], pairs: List[str], timeframes: List[str], after: Optional[int]
) -> Iterator[Event]:
    """Looks at a database again and again, and opens it anew each time: it may be another one by then."""
    sides = [f"{side}_{name}" for side in ("bid", "ask") for name in COLUMNS[1:5]]
    names = ["pair", "timeframe", "timestamp", *COLUMNS[1:], "source", "revision", "seq", *sides]
    marks = [",".join("?" * len(wanted)) for wanted in (pairs, timeframes)]
    sql = (
        f"SELECT {', '.join(names)} FROM candles WHERE seq > ? AND pair IN ({marks[0]})"
        f" AND timeframe IN ({marks[1]}) ORDER BY seq LIMIT {PAGE_MAX}"
    )
    with _source(place) as source:
        assert isinstance(source, _Sql)
        for pair, timeframe in itertools.product(pairs, timeframes):
            source.check_known(pair, timeframe)
    while True:
        with _source(place) as source:
            assert isinstance(source, _Sql)
            (newest,) = source.rows("SELECT coalesce(max(seq), 0) FROM candles")[0]
            rows = source.rows(sql, after, *pairs, *timeframes) if after is not None and newest > after else []
        if after is not None and newest < after:
            reason = f"the database ends at seq {newest}, before {after}: it is another one, or an older copy"
            yield Event("reset", newest, {"reason": reason, "seq": newest})
        for row in rows:
            bar = dict(zip(names, row))
            bar["time"] = bar.pop("timestamp")
            for side in ("bid", "ask"):
                bar[side] = {name: bar.pop(f"{side}_{name}") for name in COLUMNS[1:5]}
            yield Event("revision" if bar["revision"] else "candle", bar["seq"], bar)
        after = rows[-1][names.index("seq")] if len(rows) == PAGE_MAX else newest
        # Where it stands, also when nothing came that is wanted.
        yield Event("at", after, {})
        if len(rows) < PAGE_MAX:
            time.sleep(LOOK_EVERY_S)


def _pushed(
    place: str, token_file: Optional[str], pairs: List[str], timeframes: List[str], after: Optional[int]
) -> Iterator[Event]:
    """Reads one answer of `/v1/stream` to its end."""
    service = _Http(place, token_file)
    query = urllib.parse.urlencode({"pairs": ",".join(pairs), "timeframes": ",".join(timeframes)}, safe=",")
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    answer = service.open(f"/v1/stream?{query}", headers, within_s=SILENCE_MAX_S)
    if answer.status != 200:
        service.fail(
            answer.status, service.read(answer), {"pair": ", ".join(pairs), "timeframe": ", ".join(timeframes)}
        )
    kind, number, lines = "message", after, []
    try:
        with answer:
            for line in iter(lambda: answer.readline(LINE_MAX), b""):
                name, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
                value = value[1:] if value.startswith(" ") else value
                if name == "event":
                    kind = value
                elif name == "data":
                    lines.append(value)
                elif name == "id" and value.isdigit():
                    number = int(value)
                elif line in (b"\n", b"\r\n"):
                    data = json.loads("\n".join(lines)) if lines else {}
                    if kind == "reset":
                        number = data.get("seq", number)
                    if kind == "error":
                        raise Unavailable(f"{place} ends the stream: {data.get('reason')}")
                    if number is not None:
                        yield Event(kind if lines else "at", number, data)
                    kind, lines = "message", []
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"the stream of {place} broke: {error}") from error
