"""Reads candlekeep's bars into pandas: from its SQLite file, its PostgreSQL database, or over HTTP.

    from candlekeep import get_candles

    bars = get_candles("EUR_USD", "5", 100, max_age=360, complete=True)

Copy this file beside your bot. It needs Python 3.9 and pandas; psycopg (version 3) for PostgreSQL alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import logging
import math
import numbers
import os
import queue
import random
import re
import sqlite3
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Union

import pandas as pd

log = logging.getLogger("candlekeep")

#: Where bars are read from when nothing else is said.
DEFAULT_URL = "sqlite://candlekeep.db"
#: Columns of the frames that are answered, and with `price="all"` of their end.
COLUMNS = ["time", "open", "high", "low", "close", "volume"]
SIDES = [f"{side}_{name}" for side in ("bid", "ask") for name in COLUMNS[1:5]]
#: Bars of an answer where nobody says which; epoch seconds that are milliseconds by mistake.
COUNT, SECONDS_MAX = 100, 100_000_000_000
#: When something is; without a zone it is UTC.
Time = Union[dt.date, str, float]
#: Seconds that a database or the service may take to answer, or to let go of a lock.
ANSWER_WITHIN_S = 10
#: Seconds to wait for what was asked to be fetched where nobody says how many, and between looks at it.
FETCH_WITHIN_S, LOOK_EVERY_S = 60.0, 1.0
#: Seconds without a word, not even a keepalive, after which an event stream is taken for dead.
SILENCE_MAX_S = 45
#: Bytes of one of its lines.
LINE_MAX = 1 << 20
#: Without one so long it is said to be away already: there is a keepalive every 15 s.
HEARD_WITHIN_S = 20
#: First and longest pause between attempts to reach what does not answer, seconds; the longest on this machine.
PAUSES_S, PAUSE_NEAR_S = (0.5, 30.0), 5.0
#: Holes that an error's text lists.
SHOWN_MAX = 5
#: A bucket that is over is not missed for so long: the service may be about to store, or to fetch, it.
SETTLING_S = 60
#: A bar that ends so much after our clock is none of a market that goes by it.
AHEAD_MAX_S = 3_600
AHEAD = "a simulated market goes by its own with CANDLEKEEP_CLOCK=stream; else the clock is wrong"
#: From the run on that holds the start: runs do not overlap, which no database knows.
FROM_THE_RUN_AT = (
    " AND from_ts >= COALESCE((SELECT MAX(from_ts) FROM coverage"
    " WHERE pair=? AND timeframe=? AND from_ts <= ?), ?)"
)
#: A lease that was not renewed for longer is nobody's: who collects does so every three seconds.
SILENT_AFTER_S = 20


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
    """The newest bar is too old: `last` is its start, epoch seconds, `age_s` its age in market time.

    Below nought it ends so long after our clock that its age cannot be told.

    `silent_s` is none but for a simulator's database into which nobody collects any more, so that its market's time
    stands still: for how many seconds of ours, infinite where nobody ever did.
    """

    def __init__(
        self, what: str, last: int, age_s: float, max_age_s: float, note: str = "", silent_s: float | None = None
    ) -> None:
        self.last, self.age_s, self.silent_s = last, age_s, silent_s
        why = f"which ended {age_s:.0f} s of market time ago; max_age is {max_age_s:.0f} s"
        if age_s < 0:
            why = f"which ends {-age_s / 3_600:.1f} h after this machine's clock: {AHEAD}"
        if silent_s is not None:
            since = "" if silent_s == math.inf else f" for {silent_s:.0f} s"
            why = f"and its market's time stands still: nobody collects into this database{since}"
        super().__init__(f"{what}: the newest bar is that of {_text(last)}, {why}{note}")


class Hole(NamedTuple):
    """A run of 5-minute buckets without the bars that they should have: epoch seconds, half-open."""

    start: int
    end: int
    state: str
    reason: str

    def __str__(self) -> str:
        return f"{_text(self.start)} to {_text(self.end)} is {self.state} ({self.reason})"


class Incomplete(CandlekeepError):
    """Bars are missing. `holes` says where and why; `stored` is how many of the `count` asked for there are.

    `count` is none where all from a `start` on were.
    """

    def __init__(self, what: str, stored: int, count: int | None, holes: Sequence[Hole], note: str = "") -> None:
        self.stored, self.count, self.holes = stored, count, list(holes)
        few = [f"only {stored} of {count} bars are stored"] if count and stored < count else []
        listed = [str(hole) for hole in holes[:SHOWN_MAX]]
        more = [f"{len(holes) - SHOWN_MAX} more holes"] if len(holes) > SHOWN_MAX else []
        super().__init__(f"{what}: {'; '.join(few + listed + more)}{note}")


class Event(NamedTuple):
    """What `follow` tells: a bar that was stored or corrected, that bars may have been passed over, or silence.

    `kind` is `candle`, `revision`, `reset` or `idle`; `seq` its place in the order of commits, to go on from; `data`
    the bar, with `pair`, `timeframe`, `time` (epoch seconds), `open` … `volume`, `bid`, `ask`, `source`, `revision`
    and `seq`, or of a reset the `reason`. Of `idle`, which has the `seq` of what was told last (0: nothing yet), it is
    whether the service is `connected`, and `why` not, or None.
    """

    kind: str
    seq: int
    data: dict[str, Any]

    @property
    def is_newest(self) -> bool:
        """Whether no later bar of that pair and timeframe was stored when the service told this.

        Not so what is told anew, or healed, after a break, but for its last. It says nothing of the bar's age.
        """
        return self.data.get("newest") is True


def get_candles(
    pair: str,
    timeframe: str | int,
    count: int | None = None,
    *,
    start: Time | None = None,
    end: Time | None = None,
    url: str | None = None,
    price: str = "mid",
    max_age: float | dt.timedelta | None = None,
    complete: bool = False,
    utc: bool = False,
    fetch: bool | float = False,
    fetch_url: str | None = None,
    now: float | None = None,
    token_file: str | None = None,
) -> pd.DataFrame:
    """The newest `count` (100) settled bars, or those of a stretch, as `time, open, high, low, close, volume`.

    They ascend; `time` is the start of a bar, UTC: naive, or aware with `utc`. The frame's `attrs["seq"]` is where to
    go on with `follow`.

    start, end  bars that start from then on, and before then: datetimes, ISO 8601 or epoch seconds, UTC where there
                is no zone. From a `start` on all are answered, or the newest `count`; a service has 10,000 at a time
    url         `sqlite://file.db`, `sqlite:////absolute/file.db`, `postgres://user@host/name` or
                `http://127.0.0.1:8017`; else $DATABASE_URL, else $CANDLEKEEP_HTTP, else `sqlite://candlekeep.db`
    price       `mid`, `bid`, `ask`, or `all`: mid, and columns `bid_open` … `ask_close` besides
    max_age     raises Stale if the newest bar ended longer ago than this, in seconds of market time. Hours in
                which the market is closed, and buckets that are proved to be quiet, do not count, but for those after
                `end`. The next bar is stored within a bar's length and 60 s, so 360 is for 5-minute bars what 960 is
                for 15-minute ones
    complete    raises Incomplete if one is missing after the first of them, or from `start` to `end`, or there are
                fewer than asked for without a `start`. A database knows the market's hours for four weeks back: time
                before that of which its ledger says nothing counts as missing
    fetch       the service is asked to fetch first what is missing, and waited for: a minute, or as many seconds as
                this says. What cannot be had is judged by `complete`. It costs IG's points: for the start of a bot
                rather than for each bar. With an `end` it wants a `start`
    fetch_url   the service that is asked; else `url` where that is one, else $CANDLEKEEP_HTTP
    now         what time it is, epoch seconds, for replays. Else a service knows. Beside the database of a simulator,
                and no other, CANDLEKEEP_CLOCK=stream makes it the end of the newest bucket; with max_age Stale is
                raised there too once nobody has collected for 20 s
    token_file  the file with HTTP's token; else $CANDLEKEEP_HTTP_TOKEN_FILE

    Raises UnknownPair, UnknownTimeframe, NoData, Stale, Incomplete, or Unavailable (Locked), Denied and WrongSchema
    where nothing can be read or asked for; ValueError, or the service's BadRequest, where the question makes no sense.
    """
    pair, timeframe = _pair(pair), _timeframe(timeframe)
    what, step = f"{pair} {timeframe}", int(timeframe) * 60
    begin, until = _seconds("start", start), _seconds("end", end)
    count = COUNT if count is None and begin is None else count
    if count is not None and count < 1:
        raise ValueError(f"count is at least 1, not {count}")
    if begin is not None and until is not None and begin >= until:
        raise ValueError(f"start {start} is not before end {end}")
    if price not in ("mid", "bid", "ask", "all"):
        raise ValueError(f"price is mid, bid, ask or all, not {price!r}")
    asked = _Asked(pair, timeframe, step, count, begin, until, price)
    place = _place(url)
    fetcher = None
    if fetch:
        if begin is None and until is not None:
            raise ValueError("fetch with an end wants a start")
        service_url = fetch_url or (place if place.startswith("http") else None)
        fetcher = _Service(_service_place(service_url, "fetch"), token_file)

    def read() -> _Found:
        if place.startswith("http"):
            return _read_http(_Service(place, token_file), asked)
        return (_read_sqlite if place.startswith("sqlite") else _read_postgres)(place, asked)

    found, note = read(), ""
    # What is lost was asked for in vain.
    wanted = [hole for hole in found.holes if hole.state != "lost"]
    if fetcher and (wanted or asked.lacks(found.bars)):
        stretch = {"count": count}
        if not asked.lacks(found.bars):
            stretch = {"from": asked.first(found.bars), "to": _up(wanted[-1].end, step)}
        within_s = FETCH_WITHIN_S if fetch is True else float(fetch)
        note = _fetch(fetcher, {"pair": pair, "timeframe": timeframe, **stretch}, within_s)
        found = read()
    bars, holes = found.bars, found.holes
    if not bars and not (complete and holes):
        within = [f" {word} {_text(edge)}" for word, edge in (("from", begin), ("to", until)) if edge is not None]
        raise NoData(f"{what}: no bar is stored{''.join(within) or ' yet'}{note}")
    if complete and (holes or asked.lacks(bars)):
        raise Incomplete(what, len(bars), count if begin is None else None, holes, note)
    if max_age is not None:
        max_age_s = max_age.total_seconds() if isinstance(max_age, dt.timedelta) else float(max_age)
        since = bars[-1].time + step
        if found.expected_by is not None:
            # A bucket's length and less than that after the start of the first bucket that owes a bar.
            owed = (found.expected_by - step) // step * step
            since = max(since, owed if until is None else min(owed, until))
        ahead_s = bars[-1].time + step - found.now
        if now is None and ahead_s > AHEAD_MAX_S:
            raise Stale(what, bars[-1].time, -ahead_s, max_age_s, note)
        age_s = max(0.0, (found.now if now is None else now) - since)
        if now is None and found.silent_s is not None and found.silent_s > SILENT_AFTER_S:
            raise Stale(what, bars[-1].time, age_s, max_age_s, note, found.silent_s)
        if age_s > max_age_s:
            raise Stale(what, bars[-1].time, age_s, max_age_s, note)
    frame = pd.DataFrame([(bar.time, *bar.values) for bar in bars], columns=["time", *asked.names()])
    times = pd.to_datetime(frame["time"], unit="s", utc=True).astype("datetime64[ns, UTC]")
    frame["time"] = times if utc else times.dt.tz_localize(None)
    frame = frame.astype({name: "int64" if name == "volume" else "float64" for name in asked.names()})
    frame.attrs.update(pair=pair, timeframe=timeframe, price=price, seq=max(bar.seq for bar in bars))
    return frame


def follow(
    pairs: Sequence[str],
    timeframes: Sequence[str | int],
    *,
    url: str | None = None,
    after: int | None = None,
    timeout: float | None = None,
    token_file: str | None = None,
) -> Iterator[Event]:
    """Every bar as it is stored or corrected, each value once and in order, for ever.

    The service at `url`, else at $CANDLEKEEP_HTTP, pushes them; a database cannot. `after` is the `seq` to go on from;
    without it, bars that are stored from now on are told. What does not answer is tried again, ever more rarely, and
    nothing is left out meanwhile. A `reset` says that something may have been all the same, since the database is
    another one, or does not reach back so far: read anew what you keep.

    With a `timeout`, in seconds, an `idle` is told whenever nothing has come for so long, also while the service is
    away. Quiet hours are idle and `connected`: whether bars are late `get_candles` knows, by `max_age`.

    Raises UnknownPair, UnknownTimeframe, BadRequest or Denied; never Unavailable; ValueError without a service.
    """
    service = _Service(_service_place(url, "follow"), token_file)
    wanted = [_pair(pair) for pair in pairs], [_timeframe(timeframe) for timeframe in timeframes]
    if not all(wanted):
        raise ValueError("follow wants at least one pair and one timeframe")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is more than nothing, not {timeout}")
    link = _Link()
    events = _follow(service, wanted, after, link)
    yield from events if timeout is None else _with_silence(events, after, timeout, link)


class _Link:
    """How the connection of one who follows stands."""

    def __init__(self) -> None:
        # When there was last a word, and why there is no connection; none while there is.
        self.heard = time.monotonic()
        self.cause: str | None = "it is not reached yet"
        self.is_over = threading.Event()

    def hears(self) -> None:
        self.heard, self.cause = time.monotonic(), None

    def why_not(self) -> str | None:
        silent_s = time.monotonic() - self.heard
        if self.cause is None and silent_s > HEARD_WITHIN_S:
            return f"there has been no word, not even a keepalive, for {silent_s:.0f} s"
        return self.cause


def _follow(service: _Service, wanted: Sequence[list[str]], after: int | None, link: _Link) -> Iterator[Event]:
    """What `follow` tells, without an end but that of the link."""
    first_s, longest_s = PAUSES_S[0], _longest_pause_s(service.place)
    pause_s = first_s
    while not link.is_over.is_set():
        try:
            for event in _stream(service, *wanted, after, link):
                # A word from the other side, be it only where it stands.
                pause_s = first_s
                if after is not None and event.seq <= after and event.kind != "reset":
                    continue
                after = event.seq
                if event.kind in ("candle", "revision", "reset"):
                    yield event
            link.cause = "the stream has ended"
        except Unavailable as error:
            link.cause = str(error)
        if link.is_over.is_set():
            return
        log.warning("trying again in %.1f s: %s", pause_s, link.cause)
        link.is_over.wait(pause_s * random.uniform(0.8, 1.2))
        pause_s = min(2 * pause_s, longest_s)


def _longest_pause_s(place: str) -> float:
    is_near = urllib.parse.urlsplit(place).hostname in ("localhost", "127.0.0.1", "::1")
    return min(PAUSES_S[1], PAUSE_NEAR_S) if is_near else PAUSES_S[1]


def _with_silence(events: Iterator[Event], after: int | None, timeout: float, link: _Link) -> Iterator[Event]:
    """The same, and `idle` where nothing comes: a thread waits for the service, so that the caller need not."""
    # One who takes nothing is sent no more: what waits here is one event.
    told: queue.Queue[Event | BaseException] = queue.Queue(1)

    def wait() -> None:
        last: Event | BaseException = CandlekeepError("the stream is over")
        try:
            for event in events:
                told.put(event)
                if link.is_over.is_set():
                    return
        except BaseException as error:  # Whatever it is, the caller is to have it.
            last = error
        told.put(last)

    threading.Thread(target=wait, name="candlekeep-follow", daemon=True).start()
    seq = after or 0
    try:
        while True:
            try:
                event = told.get(timeout=timeout)
            except queue.Empty:
                why = link.why_not()
                yield Event("idle", seq, {"connected": why is None, "why": why})
                continue
            if isinstance(event, BaseException):
                raise event
            seq = event.seq
            yield event
    finally:
        # It ends with the next word of the service, and what it still tells is for nobody.
        link.is_over.set()
        with contextlib.suppress(queue.Empty):
            told.get_nowait()


# What is asked for.


def _pair(text: str) -> str:
    letters = re.sub(r"[\s_/-]", "", text).upper()
    if not re.fullmatch("[A-Z]{6}", letters):
        raise ValueError(f"not a pair: {text!r}; write EUR_USD")
    return f"{letters[:3]}_{letters[3:]}"


def _timeframe(text: str | int) -> str:
    minutes = {"1h": "60"}.get(str(text).strip().lower(), str(text).strip().lower().removesuffix("m"))
    if minutes not in ("5", "10", "15", "30", "60"):
        raise ValueError(f"not a timeframe: {text!r}; it is 5, 10, 15, 30 or 60 minutes")
    return minutes


def _seconds(name: str, time: Time | None) -> int | None:
    """The first whole second at or after a time."""
    try:
        if isinstance(time, str):
            time = dt.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", time.strip()))
        if time is not None and not isinstance(time, numbers.Real):
            time = pd.Timestamp(time).timestamp()
    except (TypeError, ValueError):
        time = math.nan
    if time is None:
        return None
    if not abs(time) < SECONDS_MAX:
        raise ValueError(f"{name} is a datetime, ISO 8601 such as 2026-01-05T21:00Z, or epoch seconds")
    return math.ceil(time)


def _up(time: int, step: int) -> int:
    return -(-time // step) * step


def _place(url: str | None) -> str:
    place = (url or os.environ.get("DATABASE_URL") or _listening() or DEFAULT_URL).strip()
    if not place.startswith(("sqlite://", "postgres://", "postgresql://", "http://", "https://")):
        raise ValueError("not an address: write sqlite://file.db, postgres://user@host/name or http://127.0.0.1:8017")
    return place.rstrip("/") if place.startswith("http") else place


def _service_place(url: str | None, what: str) -> str:
    place = url or _listening()
    if not place.startswith("http"):
        raise ValueError(f"{what} wants the service, no database: name http://127.0.0.1:8017, or set CANDLEKEEP_HTTP")
    return _place(place)


def _listening() -> str:
    listen = os.environ.get("CANDLEKEEP_HTTP", "")
    return "" if listen in ("", "off") else f"http://{listen}"


def _text(epoch_s: int) -> str:
    return dt.datetime.fromtimestamp(epoch_s, dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


# What is read, by one look at the database.


class _Bar(NamedTuple):
    time: int
    seq: int
    values: tuple[float, ...]


class _Asked(NamedTuple):
    pair: str
    timeframe: str
    step: int
    count: int | None  # none for all from the start on
    start: int | None
    end: int | None
    price: str

    def names(self) -> list[str]:
        return COLUMNS[1:] + (SIDES if self.price == "all" else [])

    def lacks(self, bars: Sequence[_Bar]) -> bool:
        return self.start is None and len(bars) < (self.count or 0)

    def first(self, bars: Sequence[_Bar]) -> int:
        """From where on bars should be there."""
        if self.start is None or len(bars) == self.count:
            return bars[0].time
        return _up(self.start, self.step)


class _Found(NamedTuple):
    bars: list[_Bar]
    holes: list[Hole]  # from the first of them on
    expected_by: int | None  # when the next one ought to be stored at the latest; none where nobody watches for it
    now: float  # the market's time, epoch seconds
    silent_s: float | None = None  # where that is the newest bucket's end: since when nobody collects


def _read_http(service: _Service, asked: _Asked) -> _Found:
    query = {"pair": asked.pair, "timeframe": asked.timeframe, "price": asked.price}
    limits = {"count": asked.count, "from": asked.start, "to": asked.end}
    told = service.ask("/v1/candles", {**query, **{name: limit for name, limit in limits.items() if limit is not None}})
    bars = [_Bar(bar["time"], bar["seq"], tuple(bar[name] for name in asked.names())) for bar in told["candles"]]
    now = time.time() if told["market_time"] is None else told["market_time"]
    if not bars and asked.start is None:
        return _Found([], [], None, now)
    start = asked.first(bars)
    runs = [Hole(max(hole["from"], start), hole["to"], hole["state"], hole["reason"]) for hole in told["missing"]]
    # What the service has not got to yet is a matter of age, where nobody says up to when.
    reach = bars[-1].time + asked.step if bars and asked.end is None else math.inf
    holes = [run for run in runs if run.start < run.end and (run.reason != "not_reached" or run.start < reach)]
    return _Found(bars, holes, told["expected_by"], now)


def _read_sql(rows: Callable[..., list[Any]], asked: _Asked) -> _Found:
    """Reads by the statements that `rows` executes, in its transaction."""
    pair, timeframe, step = asked[:3]
    key, side = (pair, timeframe), f"{asked.price}_" if asked.price in ("bid", "ask") else ""
    newest, silent_s = None, None
    # Of a real market the newest bucket does not tell the time, whatever a shell's environment says.
    if os.environ.get("CANDLEKEEP_CLOCK") == "stream" and _is_simulated(rows):
        newest = rows("SELECT max(to_ts) FROM coverage WHERE timeframe='5'")[0][0]
        renewed = rows("SELECT renewed_at FROM lease WHERE name='collector'")
        silent_s = time.time() - renewed[0][0] if renewed else math.inf
    now, settling_s = (time.time(), SETTLING_S) if newest is None else (newest, 0)
    # As with a service something has happened of the bucket under way.
    if asked.start is not None and asked.start > (now if newest is None else now + 299):
        raise BadRequest(f"{_text(asked.start)} lies in the future: the market has come to {_text(int(now))}")
    names = [f"{side}{name}" if name in COLUMNS[1:5] else name for name in asked.names()]
    limits = asked.start or 0, SECONDS_MAX if asked.end is None else asked.end, asked.count or SECONDS_MAX
    told = rows(
        f"SELECT timestamp, seq, {', '.join(names)} FROM candles WHERE pair=? AND timeframe=?"
        " AND timestamp >= ? AND timestamp < ? ORDER BY timestamp DESC LIMIT ?",
        *(*key, *limits),
    )
    bars = [_Bar(start, seq, tuple(values)) for start, seq, *values in reversed(told)]
    if not bars:
        watched = rows("SELECT pair, timeframe FROM watched_bars")
        if watched and pair not in {name for name, _ in watched}:
            raise UnknownPair(pair, list({name for name, _ in watched}))
        if watched and key not in watched:
            raise UnknownTimeframe(timeframe, sorted({length for _, length in watched}, key=int))
        if asked.start is None:
            return _Found([], [], None, now)
    expected = rows("SELECT expected_by FROM freshness WHERE pair=? AND timeframe=?", *key)
    start, until = asked.first(bars), int(now - settling_s) // step * step
    # What the ledger has not got to yet is a matter of age, where nobody says up to when.
    end = bars[-1].time + step if bars else until
    until = max(end, until)
    if asked.end is not None:
        end = until = min(until, _up(asked.end, step))
    runs = rows(
        "SELECT from_ts, to_ts, state, reason FROM coverage"
        " WHERE pair=? AND timeframe='5' AND to_ts > ? AND from_ts < ?"
        f"{FROM_THE_RUN_AT} ORDER BY from_ts",
        *(pair, start, until, pair, "5", start, start),
    )
    runs = [Hole(max(a, start), min(b, until), state, reason) for a, b, state, reason in runs if start < until]
    # Time between the bars of which the ledger says nothing.
    edges = [start, *(edge for run in runs for edge in run[:2]), end]
    unknown = [(a, min(b, end)) for a, b in zip(edges[::2], edges[1::2]) if a < min(b, end)]
    if unknown:
        hours = rows(
            "SELECT from_ts, to_ts FROM market_hours"
            " WHERE calendar = (SELECT calendar FROM watched_bars WHERE pair=? AND timeframe=?) ORDER BY from_ts",
            *key,
        )
        # Before they are known the market may have traded at any time.
        hours = [(start, hours[0][0] if hours else end), *hours]
        owed = [(max(a, opens), min(b, closes)) for a, b in unknown for opens, closes in hours]
        runs = sorted(runs + [Hole(a, b, "missing", "not_reached") for a, b in owed if a < b])
    own = []
    if step > 300:
        own = rows(
            "SELECT from_ts, to_ts, state, reason FROM coverage"
            " WHERE pair=? AND timeframe=? AND to_ts > ? AND from_ts < ?"
            f"{FROM_THE_RUN_AT} ORDER BY from_ts",
            *(*key, start, until, *key, start, start),
        )
    own = [Hole(max(a, start), min(b, until), state, reason) for a, b, state, reason in own]
    holes = _holes(runs, own, {bar.time for bar in bars}, step)
    return _Found(bars, holes, expected[0][0] if expected else None, now, silent_s)


def _is_simulated(rows: Callable[..., list[Any]]) -> bool:
    return [value for (value,) in rows("SELECT value FROM settings WHERE key='environment'")] == ["custom"]


def _holes(runs: list[Hole], own: list[Hole], stored: set[int], step: int) -> list[Hole]:
    """What keeps bars of a length from being complete, by the rules of the service (`completeness.rs`).

    `runs` are those of 5-minute buckets, `own` those of longer ones, by which they are judged where there are any.
    """
    known = [run for run in own if run.reason != "possibly_open"]
    told = stored.union(*(range(run.start, run.end, step) for run in known))

    def without_bar(run: Hole) -> list[int]:
        return [start for start in range(run.start - run.start % step, run.end, step) if start not in told]

    def is_half_told(start: int) -> bool:
        return any(run.state == "stored" and run.start < start + step and run.end > start for run in runs)

    def parts(run: Hole) -> list[Hole]:
        """A run as far as nothing is told of its buckets."""
        edges: list[list[int]] = []
        for bucket in without_bar(run):
            start, end = max(bucket, run.start), min(bucket + step, run.end)
            if edges and edges[-1][1] == start:
                edges[-1][1] = end
            else:
                edges.append([start, end])
        return [run._replace(start=start, end=end) for start, end in edges]

    holes = [run for run in own if run.state in ("missing", "lost")]
    for run in runs:
        if run.reason == "possibly_open":
            # A longer bar is folded from proof alone.
            holes += [run] if step > 300 and any(map(is_half_told, without_bar(run))) else []
        elif run.state in ("missing", "lost"):
            holes += parts(run)
    return sorted(holes)


def _read_sqlite(place: str, *asked: Any) -> _Found:
    path = place[len("sqlite://") :]
    path = os.path.abspath(path[1:] if path.startswith("//") else path)
    if not os.path.exists(path):
        raise Unavailable(f"there is no database {path}; is the path right, and has `candlekeep run` run?")
    try:
        uri = f"file:{urllib.parse.quote(path)}?mode=ro"
        opened = sqlite3.connect(uri, uri=True, timeout=ANSWER_WITHIN_S, isolation_level=None)
        with contextlib.closing(opened) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            return _read_sql(lambda sql, *values: db.execute(sql, values).fetchall(), *asked)
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise Locked(f"{path} is locked by another process for more than {ANSWER_WITHIN_S} s") from error
        if "no such" in text or "not a database" in text:
            raise WrongSchema(f"{path} is no database of candlekeep's, or an older one: {text}") from error
        if "readonly" in text or "unable to open" in text:
            raise Denied(f"{path} cannot be opened: {text}; is its user's group yours?") from error
        raise Unavailable(f"{path} cannot be read: {text}") from error


def _read_postgres(place: str, *asked: Any) -> _Found:
    try:
        import psycopg
    except ImportError as error:
        raise CandlekeepError('PostgreSQL needs psycopg: pip install "psycopg[binary]"') from error
    errors = psycopg.errors
    try:
        # Nothing is prepared: a pooler hands connections on.
        opened = psycopg.connect(place, connect_timeout=ANSWER_WITHIN_S, prepare_threshold=None)
        with contextlib.closing(opened) as db:
            db.read_only, db.isolation_level = True, psycopg.IsolationLevel.REPEATABLE_READ
            db.execute(f"SET LOCAL statement_timeout = '{ANSWER_WITHIN_S}s'")
            return _read_sql(lambda sql, *values: db.execute(sql.replace("?", "%s"), values or None).fetchall(), *asked)
    except psycopg.Error as error:
        text = str(error).strip()
        if isinstance(error, (errors.UndefinedTable, errors.UndefinedColumn)):
            raise WrongSchema(f"the database is not candlekeep's, or an older one: {text}") from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise Denied(f"{text}; see GRANT in docs/postgresql.md") from error
        if isinstance(error, psycopg.OperationalError):
            raise Unavailable(f"PostgreSQL does not answer: {text}") from error
        raise CandlekeepError(f"PostgreSQL refuses: {text}") from error


# The service.


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the token is for the address that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Service:
    def __init__(self, place: str, token_file: str | None) -> None:
        self.place = place
        self.headers: dict[str, str] = {}
        token_file = token_file or os.environ.get("CANDLEKEEP_HTTP_TOKEN_FILE")
        if token_file:
            try:
                with open(token_file, encoding="utf-8") as file:
                    self.headers["Authorization"] = f"Bearer {file.read().strip()}"
            except OSError as error:
                raise Denied(f"the token cannot be read: {error}") from error
        # The service is near: no proxy of the environment's is asked, nor shown the token.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)

    def open(self, path: str, headers: dict[str, str], body: bytes | None = None, within_s: float = 0) -> Any:
        request = urllib.request.Request(self.place + path, data=body, headers={**self.headers, **headers})
        try:
            return self.opener.open(request, timeout=within_s or ANSWER_WITHIN_S)
        except urllib.error.HTTPError as error:
            return error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise Unavailable(f"{self.place} does not answer: {why}; is `candlekeep run` running?") from error

    def read(self, answer: Any, asked: dict[str, Any]) -> Any:
        """What an answer says. Raises what it complains of."""
        told: Any = {}
        try:
            with answer:
                told = json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if answer.status < 300:
                raise Unavailable(f"{self.place} broke off its answer: {error}") from error
        if answer.status < 300:
            return told
        reason = told.get("reason", f"{self.place} answers {answer.status}")
        if "pairs" in told:
            raise UnknownPair(asked.get("pair", "that pair"), told["pairs"])
        if "timeframes" in told:
            raise UnknownTimeframe(asked.get("timeframe", "so many"), told["timeframes"])
        if answer.status in (401, 403, 421):
            raise Denied(f"{reason}; see http.token_file and http.allowed_hosts in docs/http.md")
        if answer.status in (408, 429) or answer.status >= 500:
            raise Unavailable(reason)
        raise BadRequest(reason)

    def ask(self, path: str, query: dict[str, Any]) -> Any:
        return self.read(self.open(f"{path}?{urllib.parse.urlencode(query)}".rstrip("?"), {}), query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.read(self.open(path, {"Content-Type": "application/json"}, json.dumps(body).encode()), body)


def _fetch(service: _Service, wanted: dict[str, Any], within_s: float) -> str:
    """Asks for what is missing, and waits. Answers how it stands then, to be added to an error."""
    deadline = time.monotonic() + within_s
    told = service.post("/v1/fetch", wanted)
    # One that waits for points, or for a better time, is not waited for.
    while told["state"] not in ("done", "refused", "waiting"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return f"; asked for it to be fetched: {told['state']} after {within_s:.0f} s"
        time.sleep(min(LOOK_EVERY_S, left_s))
        told = service.ask(f"/v1/fetch/{told['id']}", {})
    return "; asked for it to be fetched: " + ", ".join(filter(None, (told["state"], told["note"])))


def _stream(
    service: _Service, pairs: list[str], timeframes: list[str], after: int | None, link: _Link
) -> Iterator[Event]:
    """Reads one answer of `/v1/stream` to its end."""
    query = urllib.parse.urlencode({"pairs": ",".join(pairs), "timeframes": ",".join(timeframes)}, safe=",")
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    answer = service.open(f"/v1/stream?{query}", headers, within_s=SILENCE_MAX_S)
    if answer.status != 200:
        service.read(answer, {"pair": ", ".join(pairs), "timeframe": ", ".join(timeframes)})
    kind, number, lines = "message", after, []
    try:
        with answer:
            for line in iter(lambda: answer.readline(LINE_MAX), b""):
                link.hears()
                if link.is_over.is_set():
                    return
                name, _, value = line.decode("utf-8").rstrip("\r\n").partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "data":
                    lines.append(value)
                elif name == "id" and value.isdigit():
                    number = int(value)
                elif line in (b"\n", b"\r\n"):
                    data = json.loads("\n".join(lines)) if lines else {}
                    if kind == "error":
                        raise Unavailable(f"{service.place} ends the stream: {data.get('reason')}")
                    if number is not None:
                        yield Event(kind if lines else "at", number, data)
                    kind, lines = "message", []
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"the stream of {service.place} broke: {error}") from error
