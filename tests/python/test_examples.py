"""examples/python as bots use it."""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import closing
from typing import Any, Callable, List, Type
from unittest import mock

import bot
import candlekeep
import pandas as pd
import psycopg
from candlekeep import follow, get_candles
from pandas.testing import assert_frame_equal
from world import BINARY, EXAMPLES, PATIENCE_S, REPOSITORY, Bot, Program, Scripted, Server, World, free_port, until

#: The statement of the data contract, to the letter.
PLAIN = (
    "SELECT timestamp, open, high, low, close, volume FROM candles"
    " WHERE pair=? AND timeframe=? ORDER BY timestamp DESC LIMIT ?"
)
#: Those looked at.
PAIRS = ("EUR_USD", "GBP_CHF", "GBP_USD", "USD_JPY")
#: The stream is away for half an hour, and there are no points to heal that with.
AWAY_FROM, AWAY_TO = 1_705_051_800, 1_705_053_600
FAULTS = [
    {"do": "refuse_items", "pairs": ["NZD_CAD"], "after_s": 0, "times": 1000, "code": -1, "text": "no such item"},
    {"do": "outage", "for_s": 1800, "at": "2024-01-12T09:30:00Z"},
]
#: How many times as fast as time the live market goes, and for how many of its seconds nobody listens to it.
SPEED, AWAY_S = 300, 900
#: The market closes for the week at this time.
CLOSE = 1_705_096_800


def readme(language: str, title: str = "Bots in Python") -> List[str]:
    """The blocks of a section of README that are marked so."""
    with open(os.path.join(REPOSITORY, "README.md"), encoding="utf-8") as file:
        section = file.read().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run_block(block: str, world: World) -> subprocess.CompletedProcess[str]:
    """Runs a block of README beside the database."""
    block = block.replace("http://127.0.0.1:8017", world.http_url)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": EXAMPLES, "CANDLEKEEP_CLOCK": "stream"}
    options: Any = {"capture_output": True, "text": True, "timeout": PATIENCE_S}
    return subprocess.run([sys.executable, "-c", block], cwd=world.folder, env=environment, **options)


def epoch(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").timestamp())


def setUpModule() -> None:
    global DEMO, DEMO_URL
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    DEMO_URL = f"sqlite:///{folder.name}/demo.db"
    command = [BINARY, "demo", "--exit", "--database", DEMO_URL]
    DEMO = Program(folder.name, "demo", command, env={"PATH": os.environ["PATH"]})
    unittest.addModuleCleanup(DEMO.stop)


def go_by_the_stream(tests: Type[unittest.TestCase]) -> None:
    """The simulated market's time is not now."""
    clock = mock.patch.dict(os.environ, {"CANDLEKEEP_CLOCK": "stream"})
    clock.start()
    tests.addClassCleanup(clock.stop)


class Stored(unittest.TestCase):
    """A day and a half up to a Friday's close, in a file, on a server, and over HTTP."""

    world: World
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.addClassCleanup(cls.server.end)
        market = ["--from", "2024-01-11T12:00", "--to", "2024-01-12T23:00", "--speed", "max", "--rows-per-bar", "5"]
        cls.world = World(*market, "--wait-for-items", "27", "--allowance", "0", faults=FAULTS)
        cls.addClassCleanup(cls.world.end)
        cls.world.collect()
        # The last buckets of pairs that are seldom quoted may be without a price.
        last = "SELECT count(*) FROM candles WHERE timeframe='15' AND timestamp=? AND pair IN (?, ?, ?, ?)"
        until("the market's close", lambda: cls.world.rows(last, CLOSE - 900, *PAIRS) == [(len(PAIRS),)])
        cls.server_url = cls.server.database("candles")
        cls.world.run("copy", cls.world.file_url, cls.server_url)
        # As far as its readers can tell somebody collects into the copy too, for longer than these tests last.
        with psycopg.connect(cls.server_url) as db:
            renewed = db.execute("UPDATE lease SET renewed_at=%s WHERE name='collector'", [int(time.time()) + 86_400])
        assert renewed.rowcount == 1
        cls.places = {"file": cls.world.file_url, "server": cls.server_url, "http": cls.world.http_url}
        go_by_the_stream(cls)

    def everywhere(self, look: Callable[[str], Any]) -> List[Any]:
        """What `look` makes of each of the three places."""
        found = []
        for name, url in self.places.items():
            with self.subTest(name):
                found.append(look(url))
        self.assertEqual(len(found), len(self.places))
        return found

    def refused(self, error: Type[Exception], *arguments: Any, **options: Any) -> Any:
        """The error of all three places, which say the same."""

        def look(url: str) -> Any:
            with self.assertRaises(error) as caught:
                get_candles(*arguments, url=url, **options)
            self.assertIs(type(caught.exception), error)
            return caught.exception

        errors = self.everywhere(look)
        for other in errors[1:]:
            self.assertEqual(str(other), str(errors[0]))
        return errors[0]

    def test_the_same_frame_from_file_server_and_http_is_that_of_plain_sql(self) -> None:
        for pair, timeframe, count in [("EUR_USD", "5", 100), ("USD_JPY", "15", 40), ("GBP_CHF", "5", 5_000)]:
            with closing(sqlite3.connect(f"file:{self.world.path}?mode=ro", uri=True)) as db:
                plain = pd.read_sql(PLAIN, db, params=(pair, timeframe, count))
            with psycopg.connect(self.server_url) as db:
                rows = db.execute(PLAIN.replace("?", "%s"), (pair, timeframe, count)).fetchall()
            self.assertEqual(rows, list(plain.itertuples(index=False, name=None)))
            expected = plain.iloc[::-1].reset_index(drop=True).rename(columns={"timestamp": "time"})
            expected["time"] = pd.to_datetime(expected["time"], unit="s")
            self.assertGreater(len(expected), 30)
            for frame in self.everywhere(lambda url: get_candles(pair, timeframe, count, url=url)):
                assert_frame_equal(frame, expected, check_exact=True)
                self.assertTrue(frame["time"].is_monotonic_increasing)

    def test_columns_are_of_the_types_that_are_promised(self) -> None:
        for frame in self.everywhere(lambda url: get_candles("eur/usd", "5m", 3, url=url)):
            self.assertEqual([str(kind) for kind in frame.dtypes], ["datetime64[ns]"] + ["float64"] * 4 + ["int64"])
            self.assertEqual(list(frame.columns), ["time", "open", "high", "low", "close", "volume"])
            self.assertEqual(frame["time"].iloc[-1], pd.Timestamp("2024-01-12 21:55"))
        for frame in self.everywhere(lambda url: get_candles("EURUSD", 5, 3, url=url, utc=True)):
            self.assertEqual(frame["time"].iloc[-1], pd.Timestamp("2024-01-12 21:55", tz="UTC"))

    def test_bid_and_ask_are_those_of_the_table(self) -> None:
        for side in ("bid", "ask"):
            names = ", ".join(f"{side}_{name}" for name in ("open", "high", "low", "close"))
            sql = f"SELECT {names} FROM candles WHERE pair='GBP_USD' AND timeframe='5' ORDER BY timestamp DESC LIMIT 50"
            rows = self.world.rows(sql)[::-1]
            for frame in self.everywhere(lambda url: get_candles("GBP_USD", 5, 50, url=url, price=side)):
                self.assertEqual(list(frame[["open", "high", "low", "close"]].itertuples(index=False, name=None)), rows)

    def test_all_prices_are_those_of_the_table_side_by_side(self) -> None:
        names = [f"{side}_{name}" for side in ("bid", "ask") for name in ("open", "high", "low", "close")]
        names = ["open", "high", "low", "close", "volume", *names]
        sql = f"SELECT {', '.join(names)} FROM candles WHERE pair='GBP_USD' AND timeframe='15' ORDER BY timestamp DESC"
        rows = self.world.rows(f"{sql} LIMIT 20")[::-1]
        for frame in self.everywhere(lambda url: get_candles("GBP_USD", 15, 20, url=url, price="all")):
            self.assertEqual(list(frame.columns), ["time", *names])
            self.assertEqual(list(frame[names].itertuples(index=False, name=None)), rows)

    def times(self, *arguments: Any, **options: Any) -> List[int]:
        """The starts of bars that all three places answer alike."""
        frames = self.everywhere(lambda url: get_candles(*arguments, url=url, **options))
        for frame in frames[1:]:
            assert_frame_equal(frame, frames[0], check_exact=True)
        return [int(time.timestamp()) for time in frames[0]["time"]]

    def test_a_stretch_is_half_open_and_a_count_takes_its_newest(self) -> None:
        sql = "SELECT timestamp FROM candles WHERE pair='EUR_USD' AND timeframe=? AND timestamp >= ? ORDER BY timestamp"
        for timeframe, step in [("5", 300), ("15", 900)]:
            stored = [time for (time,) in self.world.rows(sql, timeframe, CLOSE - 43_200)]
            start, end = stored[0], CLOSE - 3_600
            # More than come without a start.
            within = [time for time in stored if time < end]
            for options, expected in [
                ({"start": start}, stored),
                ({"start": start - 0.5, "end": end}, within),
                ({"start": start + 1}, stored[1:]),
                ({"start": start, "end": within[-1]}, within[:-1]),
                ({"start": start, "end": within[-1] + 1}, within),
                ({"start": start, "end": end, "count": 7}, within[-7:]),
                ({"start": start, "count": 100_00}, stored),
                ({"end": end, "count": 3}, within[-3:]),
                ({"end": CLOSE + 10**9, "count": 3}, stored[-3:]),
            ]:
                with self.subTest(timeframe, **options):
                    self.assertEqual(self.times("EUR_USD", timeframe, **options), expected)
            self.assertEqual(len(self.times("EUR_USD", 5, end=end)), 100)

    def test_times_are_taken_as_they_are_written(self) -> None:
        start, end = CLOSE - 1_800, CLOSE - 900
        expected = [start, start + 300, start + 600]
        aware = dt.datetime.fromtimestamp(start, dt.timezone(dt.timedelta(hours=-5)))
        for given in [
            start,
            float(start),
            aware,
            aware.astimezone(dt.timezone.utc).replace(tzinfo=None),
            pd.Timestamp(start, unit="s"),
            pd.Timestamp(start, unit="s", tz="Asia/Tokyo"),
            pd.Timestamp(start, unit="s").to_datetime64(),
            pd.Series([start]).iloc[0],
            "2024-01-12T21:30",
            "2024-01-12 21:30:00Z",
            aware.isoformat(),
        ]:
            with self.subTest(repr(given)):
                self.assertEqual(self.times("EUR_USD", 5, start=given, end=end), expected)
        friday = dt.date(2024, 1, 12)
        self.assertEqual(self.times("EUR_USD", 5, 1, end=friday), self.times("EUR_USD", 5, 1, end="2024-01-12"))
        for given in ["soon", "", start * 1_000, float("nan"), pd.NaT, [start]]:
            error = self.refused(ValueError, "EUR_USD", 5, start=given)
            self.assertRegex(str(error), "^start is a datetime, ISO 8601")
        self.assertRegex(str(self.refused(ValueError, "EUR_USD", 5, start=end, end=end)), "is not before end")

    def test_a_stretch_is_complete_from_its_start_to_its_end(self) -> None:
        sql = (
            "SELECT from_ts, to_ts, state, reason FROM coverage WHERE pair='EUR_USD' AND timeframe='5'"
            " AND state='missing' AND from_ts >= ? ORDER BY from_ts"
        )
        holes = [candlekeep.Hole(*row) for row in self.world.rows(sql, CLOSE - 86_400)]
        self.assertIn(self.gap(), holes)
        # Both lengths have the same edges.
        first, last = holes[0].start // 900 * 900, -(-holes[-1].end // 900) * 900
        for timeframe in ("5", "15"):
            for within, options, is_complete in [
                ("before it", {"start": first - 7_200, "end": first}, True),
                ("behind it", {"start": last, "end": CLOSE + 86_400}, True),
                ("the newest behind it", {"start": first, "count": 3}, True),
                ("more than there are", {"start": last, "count": 9_000}, True),
                ("the whole of it", {"start": first - 7_200, "end": last + 7_200}, False),
                ("no bar before it", {"start": first, "end": last + 7_200}, False),
                ("no bar behind it", {"start": first - 7_200, "end": last}, False),
                ("no bar at all", {"start": self.gap().end - 900, "end": self.gap().end}, False),
                ("without an end", {"start": first}, False),
            ]:
                with self.subTest(within, timeframe=timeframe):
                    if is_complete:
                        self.assertTrue(self.times("EUR_USD", timeframe, complete=True, **options))
                        continue
                    error = self.refused(candlekeep.Incomplete, "EUR_USD", timeframe, complete=True, **options)
                    begin = options["start"] // 900 * 900
                    met = [hole._replace(start=max(hole.start, begin)) for hole in holes if hole.end > begin]
                    self.assertEqual(error.holes, [hole for hole in met if hole.start < options.get("end", CLOSE)])
                    self.assertIsNone(error.count)
        # Without a start there are fewer than asked for.
        error = self.refused_alike(candlekeep.Incomplete, "EUR_USD", 5, 2_000, end=CLOSE, complete=True)
        self.assertEqual(error.count, 2_000)

    def test_of_a_stretch_without_bars_it_is_said_whether_some_are_missing(self) -> None:
        start, end = CLOSE - 3 * 86_400, CLOSE - 3 * 86_400 + 3_600
        error = self.refused(candlekeep.NoData, "EUR_USD", 5, start=start, end=end)
        self.assertEqual(
            str(error),
            "EUR_USD 5: no bar is stored from 2024-01-09 22:00 UTC to 2024-01-09 23:00 UTC",
        )
        self.refused_alike(candlekeep.UnknownPair, "EUR_SEK", 5, start=start)
        self.refused_alike(candlekeep.BadRequest, "EUR_USD", 5, start=CLOSE + 3_600)

    def test_an_age_is_that_of_the_stretch(self) -> None:
        look = {"now": CLOSE + 86_400, "max_age": 360}
        self.assertEqual(len(self.times("EUR_USD", 5, start=CLOSE - 3_600, **look)), 12)
        self.assertEqual(len(self.times("EUR_USD", 5, start=CLOSE - 3_600, end=CLOSE + 86_400, **look)), 12)
        error = self.refused(candlekeep.Stale, "EUR_USD", 5, 3, end=CLOSE - 300, **look)
        self.assertEqual((error.last, error.age_s), (CLOSE - 600, 86_700))

    def gap(self) -> Any:
        """What the outage has cost a pair: rows that were under way when it began may be lost with it."""
        sql = "SELECT from_ts, to_ts FROM coverage WHERE pair='EUR_USD' AND timeframe='5' AND reason='disconnected'"
        ((start, end),) = self.world.rows(sql)
        self.assertLessEqual(start, AWAY_FROM)
        self.assertGreaterEqual(end, AWAY_TO)
        return candlekeep.Hole(start, end, "missing", "disconnected")

    def test_what_is_missing_is_named_with_its_reason(self) -> None:
        gap = self.gap()
        for timeframe, count in [("5", 150), ("15", 50)]:
            with self.subTest(timeframe):
                error = self.refused(candlekeep.Incomplete, "EUR_USD", timeframe, count, complete=True)
                self.assertEqual(error.stored, count)
                self.assertEqual([hole for hole in error.holes if hole.reason == "disconnected"], [gap])
                times = [f"{pd.Timestamp(edge, unit='s'):%Y-%m-%d %H:%M} UTC" for edge in gap[:2]]
                self.assertIn(f"{times[0]} to {times[1]} is missing (disconnected)", str(error))

    def test_bars_behind_a_hole_are_complete(self) -> None:
        seconds = CLOSE - self.gap().end
        for timeframe, count in [("5", seconds // 300), ("15", seconds // 900)]:
            frames = self.everywhere(lambda url: get_candles("EUR_USD", timeframe, count, url=url, complete=True))
            self.assertEqual([len(frame) for frame in frames], [count] * 3)

    def test_fewer_bars_than_asked_for_are_incomplete(self) -> None:
        error = self.refused_alike(candlekeep.Incomplete, "EUR_USD", "5", 2_000, complete=True)
        self.assertRegex(str(error), "only [0-9]+ of 2000 bars are stored; ")

    def refused_alike(self, error: Type[Exception], *arguments: Any, **options: Any) -> Any:
        """The same where the texts may differ."""

        def look(url: str) -> Any:
            with self.assertRaises(error) as caught:
                get_candles(*arguments, url=url, **options)
            return caught.exception

        return self.everywhere(look)[0]

    def test_old_bars_are_stale_and_those_before_a_closed_market_are_not(self) -> None:
        now = {name: epoch(f"2024-01-{time}") for name, time in [("sat", "13 12:00"), ("open", "14 22:10")]}
        look = {"complete": True, "max_age": 360}
        self.everywhere(lambda url: get_candles("EUR_USD", 5, 10, url=url, now=now["sat"], **look))
        self.everywhere(lambda url: get_candles("EUR_USD", 15, 10, url=url, now=now["open"] - 300, **look))
        self.everywhere(lambda url: get_candles("EUR_USD", 5, 10, url=url, now=now["open"], max_age=600))
        error = self.refused(candlekeep.Stale, "EUR_USD", 5, 10, now=now["open"], max_age=360)
        self.assertEqual((error.last, error.age_s), (CLOSE - 300, 600))
        self.assertIn("that of 2024-01-12 21:55 UTC, which ended 600 s of market time ago", str(error))
        # By the clock on the wall it is years old, and by the stream's it is new. The service knows by which it goes.
        self.refused_alike(candlekeep.Stale, "EUR_USD", 5, 10, max_age=pd.Timedelta(days=1), now=time.time())
        with mock.patch.dict(os.environ, {"CANDLEKEEP_CLOCK": "system"}):
            for url in (self.world.file_url, self.server_url):
                with self.assertRaises(candlekeep.Stale):
                    get_candles("EUR_USD", 5, 10, url=url, max_age=pd.Timedelta(days=1))
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=self.world.http_url, max_age=0)), 10)
        self.everywhere(lambda url: get_candles("EUR_USD", 5, 10, url=url, max_age=0))

    def test_of_a_real_market_the_newest_bucket_never_tells_the_time(self) -> None:
        for environment in ("demo", "live"):
            url = self.changed(environment, f"UPDATE settings SET value='{environment}' WHERE key='environment'")
            with self.assertRaisesRegex(candlekeep.Stale, "s of market time ago; max_age is 86400 s") as caught:
                get_candles("EUR_USD", 5, 10, url=url, max_age=pd.Timedelta(days=1))
            self.assertGreater(caught.exception.age_s, 86_400)
            self.assertIsNone(caught.exception.silent_s)

    def test_bars_of_a_time_to_come_have_no_age(self) -> None:
        years_s = 20 * 365 * 86_400
        url = self.changed("ahead", f"UPDATE candles SET timestamp = timestamp + {years_s}")
        with mock.patch.dict(os.environ, {"CANDLEKEEP_CLOCK": "system"}):
            with self.assertRaisesRegex(candlekeep.Stale, r"ends \d+\.\d h after .*CANDLEKEEP_CLOCK=stream") as caught:
                get_candles("EUR_USD", 5, 10, url=url, max_age=360)
            self.assertAlmostEqual(caught.exception.age_s, time.time() - CLOSE - years_s, delta=60)
            # Who says what time it is knows it.
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url, max_age=360, now=CLOSE + years_s)), 10)
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url)), 10)

    def test_bars_of_a_simulator_are_stale_once_nobody_collects(self) -> None:
        killed = "UPDATE lease SET renewed_at={}"
        url = self.changed("lately", killed.format(int(time.time()) - 5))
        self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url, max_age=3_600)), 10)
        for name, statement, said, least_s in [
            ("killed", killed.format(int(time.time()) - 4_000), r"database for 40\d\d s$", 4_000),
            ("copied", "DELETE FROM lease", "database$", float("inf")),
        ]:
            url = self.changed(name, statement)
            with (
                self.subTest(name),
                self.assertRaisesRegex(candlekeep.Stale, f"stands still: nobody collects into this {said}") as caught,
            ):
                get_candles("EUR_USD", 5, 10, url=url, max_age=3_600)
            self.assertGreaterEqual(caught.exception.silent_s, least_s)
            # Who says what time it is, or does not ask for an age, is not told.
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url, max_age=0, now=CLOSE)), 10)
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url)), 10)

    def test_an_unknown_pair_lists_the_known_ones(self) -> None:
        error = self.refused(candlekeep.UnknownPair, "EUR_SEK", "5")
        self.assertEqual(len(error.known), 28)
        self.assertIn("NZD_CAD", error.known)
        error = self.refused(candlekeep.UnknownTimeframe, "EUR_USD", "30")
        self.assertEqual(error.known, ["5", "15"])

    def test_a_pair_without_bars_has_no_data(self) -> None:
        error = self.refused(candlekeep.NoData, "NZD_CAD", "5", complete=True, max_age=0)
        self.assertEqual(str(error), "NZD_CAD 5: no bar is stored yet")

    def test_nonsense_is_named(self) -> None:
        for arguments, options in [
            (("EUR", 5), {}),
            (("EUR_USD", 7), {}),
            (("EUR_USD", 5, 0), {}),
            (("EUR_USD", 5), {"price": "last"}),
            (("EUR_USD", 5), {"end": CLOSE, "fetch": True, "fetch_url": "http://127.0.0.1:1"}),
        ]:
            self.refused(ValueError, *arguments, **options)
        with self.assertRaisesRegex(ValueError, "not an address"):
            get_candles("EUR_USD", 5, url="mysql://x")
        with self.assertRaisesRegex(candlekeep.BadRequest, "10000"):
            get_candles("EUR_USD", 5, 10_001, url=self.world.http_url)

    def test_a_place_that_is_not_there_is_named(self) -> None:
        for url, text in [
            (f"sqlite:///{self.world.folder}/other.db", "there is no database .*/other.db; "),
            (f"http://127.0.0.1:{free_port()}", "does not answer: .*refused"),
            (f"postgres://x@127.0.0.1:{free_port()}/x", "PostgreSQL does not answer: .*refused"),
            (self.server.url("nowhere"), 'database "nowhere" does not exist'),
        ]:
            with self.subTest(url), self.assertRaisesRegex(candlekeep.Unavailable, text):
                get_candles("EUR_USD", 5, url=url)
        self.assertFalse(os.path.exists(f"{self.world.folder}/other.db"))

    def test_another_database_is_not_taken_for_ours(self) -> None:
        path = os.path.join(self.world.folder, "foreign.db")
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE candles (pair TEXT)")
        text = os.path.join(self.world.folder, "text.db")
        with open(text, "w", encoding="utf-8") as file:
            file.write("this is no database at all " * 100)
        for url in (f"sqlite:///{path}", f"sqlite:///{text}", self.server.database("empty")):
            with self.subTest(url), self.assertRaises(candlekeep.WrongSchema):
                get_candles("EUR_USD", 5, url=url)

    def test_a_lock_is_named_and_nothing_waits_for_ever(self) -> None:
        path = os.path.join(self.world.folder, "locked.db")
        self.world.run("backup", path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db, mock.patch("candlekeep.ANSWER_WITHIN_S", 0.3):
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            with self.assertRaisesRegex(candlekeep.Locked, "locked.db is locked by another process"):
                get_candles("EUR_USD", 5, url=f"sqlite:///{path}")
            self.assertLess(time.monotonic() - began, 10)

    def test_a_reader_cannot_write_and_holds_nothing_up(self) -> None:
        errors = {"file": sqlite3.OperationalError, "server": psycopg.errors.ReadOnlySqlTransaction}
        read = candlekeep._read_sql

        def look(rows: Callable[..., Any], *asked: Any) -> Any:
            found = read(rows, *asked)
            with closing(sqlite3.connect(self.world.path, timeout=0, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            with self.assertRaises(errors[name]):
                rows("DELETE FROM candles")
            return found

        for name in errors:
            with self.subTest(name), mock.patch("candlekeep._read_sql", look):
                self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=self.places[name])), 10)

    def test_a_user_of_its_own_may_read_and_one_without_a_right_is_told_so(self) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as db:
            db.execute("CREATE ROLE stranger LOGIN")
            db.execute("CREATE ROLE bot LOGIN")
            # As README has it.
            db.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO bot")
        url = self.server.url("candles", "bot")
        self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=url, complete=True, max_age=0)), 10)
        with self.assertRaisesRegex(candlekeep.Denied, "permission denied.*GRANT"):
            get_candles("EUR_USD", 5, url=self.server.url("candles", "stranger"))

    def test_a_token_is_presented_and_one_that_is_missing_is_named(self) -> None:
        token = os.path.join(self.world.folder, "token")
        with open(token, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n")
        listen = f"127.0.0.1:{free_port()}"
        copy = os.path.join(self.world.folder, "token.db")
        self.world.run("backup", copy)
        service = self.world.collect(
            CANDLEKEEP_HTTP=listen, CANDLEKEEP_HTTP_TOKEN_FILE=token, DATABASE_URL=f"sqlite:///{copy}"
        )
        self.addCleanup(service.stop)
        with self.assertRaisesRegex(candlekeep.Denied, "token_file"):
            get_candles("EUR_USD", 5, url=f"http://{listen}")

        def begun() -> bool:
            try:
                return len(get_candles("EUR_USD", 5, url=f"http://{listen}", token_file=token)) > 0
            except candlekeep.Unavailable:
                return False

        until("the service with a token", begun)
        self.assertEqual(len(get_candles("EUR_USD", 5, 10, url=f"http://{listen}", token_file=token)), 10)
        with mock.patch.dict(os.environ, {"CANDLEKEEP_HTTP_TOKEN_FILE": token, "CANDLEKEEP_HTTP": listen}):
            os.environ.pop("DATABASE_URL", None)
            self.assertEqual(len(get_candles("EUR_USD", 5, 10, max_age=0)), 10)

    def test_fetching_wants_the_service_and_says_so(self) -> None:
        os.environ.pop("CANDLEKEEP_HTTP", None)
        for url in (self.world.file_url, self.server_url):
            with self.assertRaisesRegex(ValueError, "fetch wants the service"):
                get_candles("EUR_USD", 5, url=url, fetch=True)
            with self.assertRaisesRegex(ValueError, "fetch wants the service"):
                get_candles("EUR_USD", 5, url=url, fetch=True, fetch_url=self.world.file_url)

    def test_what_is_asked_for_is_what_is_missing_and_its_fate_is_told(self) -> None:
        sql = "SELECT from_ts, to_ts FROM fetch_requests WHERE pair='EUR_USD' AND timeframe=?"
        for timeframe, count in [("5", 150), ("15", 50)]:
            step = 60 * int(timeframe)
            for url in self.places.values():
                with (
                    mock.patch.dict(os.environ, {"CANDLEKEEP_HTTP": self.world.http_url[len("http://") :]}),
                    self.assertRaisesRegex(candlekeep.Incomplete, "disconnected.*; asked for it to be fetched: "),
                ):
                    get_candles("EUR_USD", timeframe, count, url=url, complete=True, fetch=0.01)
            asked = set(self.world.rows(sql, timeframe))
            # Whole buckets, from the first that is missing to the end of the last hole.
            with self.assertRaises(candlekeep.Incomplete) as caught:
                get_candles("EUR_USD", timeframe, count, url=self.world.file_url, complete=True)
            holes = caught.exception.holes
            self.assertEqual(asked, {(holes[0].start // step * step, -(-holes[-1].end // step) * step)})

    def test_of_a_stretch_no_more_is_asked_for(self) -> None:
        start, end = AWAY_FROM - 3_600, AWAY_TO
        for url in self.places.values():
            with self.assertRaisesRegex(candlekeep.Incomplete, "; asked for it to be fetched: "):
                get_candles(
                    "GBP_CHF", 5, url=url, start=start, end=end, complete=True, fetch=0.01, fetch_url=self.world.http_url
                )
        ((first, last),) = self.world.rows("SELECT from_ts, to_ts FROM fetch_requests WHERE pair='GBP_CHF'")
        self.assertTrue(start <= first < last <= end, (first, last))

    def test_following_tells_every_bar_once_and_in_order(self) -> None:
        sql = (
            "SELECT seq, timestamp, close FROM candles"
            " WHERE pair IN ('EUR_USD', 'USD_JPY') AND timeframe='5' ORDER BY seq"
        )
        expected = self.world.rows(sql)
        with closing(follow(["EUR_USD", "USD_JPY"], [5], url=self.world.http_url, after=0)) as events:
            told = [next(events) for _ in expected]
        self.assertEqual([(event.seq, event.data["time"], event.data["close"]) for event in told], expected)
        self.assertEqual(set(told[0].data["bid"]), {"open", "high", "low", "close"})
        # What is told anew is not news, but for the last of each pair.
        last = {event.data["pair"]: event for event in told}
        newest = [event for event in told if event.is_newest]
        self.assertEqual(newest, sorted(last.values(), key=lambda event: event.seq))
        with closing(follow(["EUR_USD"], [5], url=self.world.http_url, after=10**9)) as events:
            reset = next(events)
        (newest,) = self.world.rows("SELECT max(seq) FROM candles")[0]
        self.assertEqual((reset.kind, reset.seq), ("reset", newest))

    def test_following_wants_the_service_and_says_so(self) -> None:
        os.environ.pop("CANDLEKEEP_HTTP", None)
        for url in (self.world.file_url, self.server_url, None):
            with self.assertRaisesRegex(ValueError, "follow wants the service"):
                next(follow(["EUR_USD"], [5], url=url))

    def test_following_what_is_unknown_is_refused(self) -> None:
        for error, pairs, timeframes in [
            (candlekeep.UnknownPair, ["EUR_USD", "EUR_SEK"], [5]),
            (candlekeep.UnknownTimeframe, ["EUR_USD"], [5, 60]),
            (ValueError, [], [5]),
            (ValueError, ["EUR_USD"], [7]),
        ]:
            with self.subTest(error), self.assertRaises(error):
                next(follow(pairs, timeframes, url=self.world.http_url))

    def changed(self, name: str, *statements: str) -> str:
        """The address of a copy of the file, in which something else is written."""
        path = os.path.join(self.world.folder, f"{name}.db")
        self.world.run("backup", path)
        with closing(sqlite3.connect(path)) as db, db:
            for statement in statements:
                db.execute(statement)
        return f"sqlite:///{path}"

    def test_in_a_young_database_a_length_without_bars_has_no_data(self) -> None:
        url = self.changed("young", "DELETE FROM candles WHERE timeframe='15'")
        self.assertEqual(len(get_candles("EUR_USD", 5, 3, url=url)), 3)
        with self.assertRaises(candlekeep.NoData):
            get_candles("EUR_USD", 15, 3, url=url)
        with self.assertRaises(candlekeep.UnknownTimeframe) as caught:
            get_candles("EUR_USD", 30, 3, url=url)
        self.assertEqual(caught.exception.known, ["5", "15"])
        url = self.changed("unwatched", "DELETE FROM candles", "DELETE FROM watched_bars")
        with self.assertRaises(candlekeep.NoData):
            get_candles("EUR_USD", 15, 3, url=url)

    def test_a_longer_bucket_under_way_is_not_missed(self) -> None:
        url = self.changed(
            "quarter",
            f"DELETE FROM coverage WHERE timeframe='5' AND to_ts > {CLOSE}",
            "INSERT INTO coverage (pair, timeframe, from_ts, to_ts, state, reason, evidence, updated_at)"
            f" VALUES ('EUR_USD', '5', {CLOSE}, {CLOSE + 300}, 'missing', 'disconnected', '', 0)",
        )
        with self.assertRaises(candlekeep.Incomplete):
            get_candles("EUR_USD", 5, 10, url=url, complete=True)
        self.assertEqual(len(get_candles("EUR_USD", 15, 10, url=url, complete=True)), 10)

    def test_where_the_ledger_says_nothing_the_markets_hours_count(self) -> None:
        start, end = CLOSE - 3_600, CLOSE - 1_800
        # Each ledger is cut in two there.
        statements = [
            "INSERT INTO coverage SELECT pair, timeframe, %d, to_ts, state, reason, evidence, updated_at FROM coverage"
            " WHERE pair='EUR_USD' AND from_ts <= %d AND to_ts > %d" % (end, start, start),
            f"UPDATE coverage SET to_ts={start} WHERE pair='EUR_USD' AND from_ts < {start} AND to_ts > {start}",
        ]
        hole = candlekeep.Hole(start, end, "missing", "not_reached")
        without = f"DELETE FROM candles WHERE pair='EUR_USD' AND timestamp >= {start} AND timestamp < {end}"
        for name, more, expected in [
            ("open", [], [hole]),
            ("shut", [f"UPDATE market_hours SET to_ts={start} WHERE from_ts < {start} AND to_ts > {start}"], []),
            ("untold", ["DELETE FROM market_hours"], [hole]),
        ]:
            url = self.changed(name, *statements, without, *more)
            for timeframe, count in [("5", 12), ("15", 4)]:
                with self.subTest(name, timeframe=timeframe):
                    if not expected:
                        self.assertEqual(len(get_candles("EUR_USD", timeframe, count, url=url, complete=True)), count)
                        continue
                    with self.assertRaises(candlekeep.Incomplete) as caught:
                        get_candles("EUR_USD", timeframe, count, url=url, complete=True)
                    self.assertEqual(caught.exception.holes, expected)

    def test_the_bot_decides_on_fresh_and_complete_bars_alone(self) -> None:
        for url in self.places.values():
            args = argparse.Namespace(url=url, count=40, max_age=None)
            newest = {"pair": "EUR_USD", "timeframe": "5", "time": CLOSE - 300}
            what, why = bot.consider(newest, args)
            self.assertIn(what, ("BUY", "SELL", "HOLD"), why)
            what, why = bot.consider({**newest, "time": CLOSE - 600}, args)
            self.assertEqual((what, why), ("WAIT", "not the newest bar, which is that of 2024-01-12 21:55"))
            what, why = bot.consider(newest, argparse.Namespace(url=url, count=150, max_age=None))
            self.assertEqual((what, why.split(":")[0]), ("WAIT", "Incomplete"))
            # Not even the newest is younger than no age at all, and nought is not none.
            for max_age, expected in [(-1, "Stale"), (0, None)]:
                what, why = bot.consider(newest, argparse.Namespace(url=url, count=40, max_age=max_age))
                self.assertEqual(what == "WAIT" and why.split(":")[0], expected or False)
            with mock.patch("candlekeep.get_candles", side_effect=candlekeep.NoData) as asked:
                for max_age, expected in [(0, 0), (None, 360), (90.5, 90.5)]:
                    bot.consider(newest, argparse.Namespace(url=url, count=40, max_age=max_age))
                    self.assertEqual(asked.call_args.kwargs["max_age"], expected)

    def test_the_bot_decides_once_on_a_bar_that_is_corrected(self) -> None:
        args = argparse.Namespace(url=self.world.http_url, count=40, max_age=None)

        def event(kind: str, seq: int, start: int) -> candlekeep.Event:
            bar = {"pair": "EUR_USD", "timeframe": "5", "time": start, "close": 1.1, "revision": seq}
            return candlekeep.Event(kind, seq, bar)

        newest = CLOSE - 300
        events = [
            event("candle", 1, newest - 300),
            event("candle", 2, newest),
            event("revision", 3, newest),
            event("revision", 4, newest - 300),
            candlekeep.Event("reset", 5, {"reason": "another"}),
            event("revision", 6, newest),
        ]
        told = [line.split(" ") for line in bot.lines(events, args)]
        said = [[word for word in line if word in ("BUY", "SELL", "HOLD", "WAIT", "KEEP", "reset:")] for line in told]
        decided = said[1][0]
        self.assertIn(decided, ("BUY", "SELL", "HOLD"))
        self.assertEqual(said, [["WAIT"], [decided], ["KEEP"], ["WAIT"], ["reset:"], ["KEEP"]])
        # What was waited for is decided on by a later word of the same bar.
        with mock.patch("bot.consider", side_effect=[("WAIT", ""), ("HOLD", "")]):
            said = [line.split(" ")[-2] for line in bot.lines([events[1], events[2], events[2]], args)]
        self.assertEqual(said, ["WAIT", "HOLD", "decided"])

    def test_the_indicators_are_those_of_the_books(self) -> None:
        bars = get_candles("GBP_USD", 15, 60, url=self.world.file_url)
        fast = slow = atr = before = 0.0
        for number, bar in enumerate(bars.itertuples()):
            reach = bar.high - bar.low
            if number:
                reach = max(reach, abs(bar.high - before), abs(bar.low - before))
                fast, slow = fast + 2 / 13 * (bar.close - fast), slow + 2 / 27 * (bar.close - slow)
                atr = (13 * atr + reach) / 14
            else:
                fast, slow, atr = bar.close, bar.close, reach
            before = bar.close
        last = bot.indicators(bars).iloc[-1]
        for found, expected in [(last.fast, fast), (last.slow, slow), (last.atr, atr)]:
            self.assertAlmostEqual(found, expected, places=12)

    def test_what_readme_says_runs_and_prints_what_it_shows(self) -> None:
        blocks = readme("python")
        self.assertEqual(len(blocks), 3)
        for block, expected in zip(blocks, [readme("text")[0], "12 bars, the last with a spread of 0.000", "candle "]):
            self.assertEqual(self.run_python(block)[: len(expected)], expected)

    def run_python(self, block: str) -> str:
        """What a block of README prints."""
        done = run_block(block.replace("host=db.example dbname=candles user=bot", self.server_url), self.world)
        self.assertEqual(done.returncode, 0, f"{block}\n{done.stderr}")
        return done.stdout

    def test_plain_sql_in_readme_runs(self) -> None:
        plain, frame, server, fresh = readme("python", "Read the bars")
        told = self.run_python(f"{plain}\n{frame}\nprint(len(rows), rows[0][0], df.index[-1], df.close.dtype)")
        self.assertEqual(told, f"100 {CLOSE - 300} 2024-01-12 21:45:00+00:00 float64\n")
        self.assertEqual(self.run_python(f"{server}\nprint(len(rows), rows[0][0])"), f"100 {CLOSE - 300}\n")
        # The next bar is owed a minute after the first bucket of Sunday evening, which was years ago.
        self.assertEqual(self.run_python(f"{plain}\n{fresh}\nprint(row[0], fit)"), f"{CLOSE + 48 * 3600 + 360} False\n")
        (sql,) = readme("sql", "Read the bars")
        missing, ages, untradable, new = [statement for statement in sql.split(";") if statement.strip()]
        self.assertIn(("EUR_USD", CLOSE - 300, CLOSE + 48 * 3600 + 360), self.world.rows(untradable))
        self.assertIn(("EUR_USD", "disconnected"), {(row[0], row[3]) for row in self.world.rows(missing)})
        self.assertEqual(len(self.world.rows(ages)), 27)
        self.assertGreater(len(self.world.rows(new, 100)), 1_000)


class Live(unittest.TestCase):
    """A market at three hundred times its speed: a 5-minute bar a second."""

    @classmethod
    def setUpClass(cls) -> None:
        market = ["--from", "2024-01-16T08:00", "--speed", str(SPEED), "--rows-per-bar", "20", "--seed", "3"]
        cls.world = World(*market, "--allowance", "100000", "--requests-per-minute", "100000")
        cls.addClassCleanup(cls.world.end)
        cls.variables = {
            "CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE": "10000",
            "CANDLEKEEP_HISTORY_DEPTH": "120",
            "CANDLEKEEP_CONFIG": os.path.join(cls.world.folder, "candlekeep.toml"),
        }
        with open(cls.variables["CANDLEKEEP_CONFIG"], "w", encoding="utf-8") as file:
            file.write('timeframes = ["5", "15", "60"]\n')
        cls.service = cls.world.collect(**cls.variables)
        sql = "SELECT count(*) FROM candles WHERE timeframe='5' AND pair='EUR_USD' AND source='websocket'"
        until("bars off the stream", lambda: cls.world.rows(sql) > [(1,)])
        go_by_the_stream(cls)

    def frame(self, what: str, *arguments: Any, **options: Any) -> pd.DataFrame:
        """Bars, as soon as there are such."""

        def look() -> Any:
            try:
                return [get_candles(*arguments, **options)]
            except (candlekeep.NoData, candlekeep.Incomplete, candlekeep.Unavailable):
                return None

        return until(what, look)[0]

    def test_what_is_missing_is_fetched_of_every_length(self) -> None:
        service = {"fetch_url": self.world.http_url}
        for url, pair, more in [(self.world.file_url, "EUR_CHF", service), (self.world.http_url, "EUR_JPY", {})]:
            # Of a length that is only folded the start has fetched nothing.
            for timeframe, first, count in [(5, 110, 300), (60, 5, 60)]:
                with self.subTest(url, timeframe=timeframe):
                    look: Any = {"url": url, "complete": True}
                    self.frame("the first bars", pair, timeframe, first, **look)
                    with self.assertRaises(candlekeep.Incomplete):
                        get_candles(pair, timeframe, count, **look)
                    # A bar may be owed for a moment when a look falls between two.
                    bars = self.frame("what was missing", pair, timeframe, count, fetch=30, **look, **more)
                    self.assertEqual(len(bars), count)

    def test_what_readme_begins_with_runs(self) -> None:
        (block,) = readme("python", "In short")
        said: List[str] = []

        def look() -> bool:
            done = run_block(block, self.world)
            said.append(done.stderr)
            # Bars may be missing while they are fetched, and after a service that was killed.
            self.assertRegex(done.stderr, r"^$|\n(candlekeep\.)?(NoData|Incomplete|Stale|Unavailable): .*\n$")
            return done.returncode == 0 and done.stdout.startswith("candle ")

        until("the lines of README", look)

    def market_time(self) -> int:
        return self.world.rows("SELECT max(to_ts) FROM coverage WHERE timeframe='5'")[0][0]

    def test_bots_lose_and_double_no_bar_while_the_service_is_stopped_and_killed(self) -> None:
        # As README has it.
        (line,) = readme("sh")[-1].splitlines()
        python, script, *arguments, url = line.split()
        self.assertEqual((python, script, url), ("python3", "examples/python/bot.py", "http://127.0.0.1:8017"))
        one = Bot(self.world, "bot", *arguments, self.world.http_url)

        def decided(more: int) -> None:
            had = len(one.lines())
            until("bars of the bot", lambda: len(one.lines()) >= had + more or one.process.poll() is not None)
            self.assertIsNone(one.process.poll(), one.said())

        decided(3)
        for how in (signal.SIGTERM, signal.SIGKILL):
            before = self.market_time()
            self.world.programs[1].stop(how)
            # Bars that nobody sees, to be healed. While nobody listens nothing tells the market's time but its speed.
            time.sleep(AWAY_S / SPEED)
            self.world.programs[1] = self.world.collect(**self.variables)
            until("the market to have gone on", lambda: self.market_time() >= before + 2 * AWAY_S)
            decided(4)
        healed = "SELECT count(*) FROM candles WHERE pair='EUR_USD' AND source='ig_rest' AND seq BETWEEN ? AND ?"

        def has_told_of_healed() -> bool:
            seqs = [int(line[0]) for line in one.lines()]
            return self.world.rows(healed, seqs[0], seqs[-1]) > [(0,)]

        until("a healed bar to be told of", has_told_of_healed)
        one.stop(signal.SIGINT)
        told = [
            (int(line[0]), pd.Timestamp(f"{line[3]} {line[4]}", tz="UTC").timestamp()) for line in one.lines()
        ]
        span = told[0][0], told[-1][0]
        # Each value that was stored, also one that was corrected since.
        sql = " UNION ALL ".join(
            f"SELECT seq, timestamp FROM {table} WHERE pair='EUR_USD' AND timeframe='5' AND seq BETWEEN ? AND ?{more}"
            for table, more in (("candles", ""), ("candle_revisions", " AND kind='superseded'"))
        )
        self.assertEqual(told, sorted(self.world.rows(sql, *span, *span)), one.said())
        decisions = {word for line in one.lines() for word in line[6:9]}
        self.assertTrue(decisions & {"HOLD", "BUY", "SELL"}, one.said())


class Pushed(unittest.TestCase):
    """The event stream of a service that does as it is told."""

    def follow(self, *answers: Any, after: Any = None) -> Any:
        """What is told until the service says 404, and what it was asked."""
        service = Scripted(*((200, {}, answer) if isinstance(answer, str) else answer for answer in answers))
        self.addCleanup(service.end)
        told = []
        with (
            mock.patch("candlekeep.PAUSES_S", (0.01, 0.02)),
            self.assertLogs("candlekeep", "WARNING") as logs,
            self.assertRaisesRegex(candlekeep.BadRequest, "over"),
        ):
            for event in follow(["EUR_USD", "usd/jpy"], ["5m", 15], url=service.url, after=after):
                told.append((event.kind, event.seq, event.data.get("close", event.data.get("reason"))))
        asked = [(path, headers.get("last-event-id")) for path, headers in service.asked]
        return told, asked, "\n".join(logs.output)

    def test_it_goes_on_after_the_last_whole_event(self) -> None:
        told, asked, _ = self.follow(
            "retry: 2000\nid: 7\n: what is stored after 7 follows\n\n",
            'event: candle\nid: 8\ndata: {"close": 1.5}\n\nevent: candle\nid: 9\ndata: {"close": 1.',
            ': keepalive\r\n\r\nevent: candle\r\nid: 8\r\ndata: {"close": 1.5}\r\n\r\n'
            'event: revision\r\nid: 9\r\ndata: {"close":\r\ndata:1.6}\r\n\r\n',
            "id: 12\n: keepalive\n\n",
        )
        self.assertEqual(told, [("candle", 8, 1.5), ("revision", 9, 1.6)])
        path = "/v1/stream?pairs=EUR_USD,USD_JPY&timeframes=5,15"
        self.assertEqual(asked, [(path, None), (path, "7"), (path, "8"), (path, "9"), (path, "12")])

    def test_a_reset_is_told_and_followed(self) -> None:
        reset = 'event: reset\nid: 3\ndata: {"error": "unknown_id", "reason": "another database", "seq": 3}\n\n'
        told, asked, _ = self.follow(reset + 'event: candle\nid: 4\ndata: {"close": 2}\n\n', after=90)
        self.assertEqual(told, [("reset", 3, "another database"), ("candle", 4, 2)])
        self.assertEqual([number for _, number in asked], ["90", "4"])

    def test_what_may_pass_is_waited_for(self) -> None:
        busy = (503, {"Content-Type": "application/json"}, '{"error": "busy", "reason": "too many follow"}')
        slow = 'event: error\ndata: {"error": "slow", "reason": "nothing was taken for 30 s"}\n\n'
        told, asked, logs = self.follow(busy, (502, {}, "<html>"), slow, 'data: {"\n\n', after=5)
        self.assertEqual((told, [number for _, number in asked]), ([], ["5"] * 5))
        for text in ("too many follow", "answers 502", "nothing was taken for 30 s", "broke"):
            self.assertIn(text, logs)

    def test_silence_is_told_with_whether_the_service_answers(self) -> None:
        begins, bar = "id: 7\n: what is stored after 7 follows\n\n", 'event: candle\nid: 8\ndata: {"close": 1.5}\n\n'
        service = Scripted((200, {"Held": "1"}, begins + bar))
        self.addCleanup(service.end)
        with closing(follow(["EUR_USD"], [5], url=service.url, timeout=0.5)) as events:
            self.assertEqual(next(events), ("candle", 8, {"close": 1.5}))
            for _ in range(2):
                self.assertEqual(next(events), ("idle", 8, {"connected": True, "why": None}))
            # It is there, and says nothing any more.
            with mock.patch("candlekeep.HEARD_WITHIN_S", 0):
                silent = next(events)
            self.assertFalse(silent.data["connected"])
            self.assertRegex(silent.data["why"], "no word, not even a keepalive, for [0-9] s")
            # It breaks off, and what it says next is the last word.
            service.ends.set()
            with self.assertLogs("candlekeep", "WARNING"), self.assertRaisesRegex(candlekeep.BadRequest, "over"):
                for event in events:
                    self.assertEqual(event.kind, "idle")

    def test_a_service_that_is_away_does_not_keep_a_bot_waiting(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        with (
            self.assertLogs("candlekeep", "WARNING"),
            closing(follow(["EUR_USD"], [5], url=url, after=3, timeout=0.2)) as events,
        ):
            for event in (next(events), next(events)):
                self.assertEqual((event.kind, event.seq, event.data["connected"]), ("idle", 3, False))
            self.assertIn("refused", event.data["why"])
        with self.assertRaisesRegex(ValueError, "timeout"):
            next(follow(["EUR_USD"], [5], url=url, timeout=0))

    def test_a_service_on_the_same_machine_is_looked_for_more_often(self) -> None:
        for place, expected_s in [
            ("http://127.0.0.1:8017", 5),
            ("http://[::1]:8017", 5),
            ("http://localhost:8017", 5),
            ("http://10.0.0.7:8017", 30),
            ("https://candles.example", 30),
        ]:
            self.assertEqual(candlekeep._longest_pause_s(place), expected_s, place)

    def test_the_bot_says_of_silence_what_is_wrong_alone(self) -> None:
        args = argparse.Namespace(url=None, pair="EUR_USD", timeframe="5", max_age=None)
        away = candlekeep.Event("idle", 3, {"connected": False, "why": "it does not answer"})
        quiet = candlekeep.Event("idle", 3, {"connected": True, "why": None})
        self.assertEqual(list(bot.lines([away], args)), ["idle AWAY it does not answer"])
        with mock.patch("candlekeep.get_candles", return_value=None) as asked:
            self.assertEqual(list(bot.lines([quiet, quiet], args)), [])
        self.assertEqual(asked.call_args.kwargs["max_age"], 360)
        with mock.patch("candlekeep.get_candles", side_effect=candlekeep.Stale("EUR_USD 5", 0, 400, 360)):
            (line,) = bot.lines([quiet], args)
        self.assertRegex(line, "^idle LATE Stale: EUR_USD 5: the newest bar is")

    def test_the_bot_takes_a_timeframe_in_every_spelling(self) -> None:
        quiet = candlekeep.Event("idle", 3, {"connected": True, "why": None})
        for spelled, length_s in [("5", 300), ("5m", 300), ("15M", 900), ("1h", 3_600)]:
            called = mock.patch("sys.argv", ["bot.py", "eurusd", spelled, "--timeout", "2"])
            told = mock.patch("candlekeep.follow", return_value=[quiet])
            with called, told, mock.patch("candlekeep.get_candles", return_value=None) as asked:
                bot.main()
            self.assertEqual(asked.call_args.kwargs["max_age"], length_s + 60)

    def test_a_bar_is_judged_by_the_answer_that_it_came_with(self) -> None:
        end, step = CLOSE, 300
        bar = dict.fromkeys(("open", "high", "low", "close"), 1.1)
        bar = {"time": end - step, **bar, "volume": 1, "source": "websocket", "revision": 0, "seq": 7}
        for now, age_s in [(end + 400, 400), (end + 48 * 3_600 + 400, 48 * 3_600 + 400)]:
            told = {"candles": [bar], "missing": [], "expected_by": end + step + 60, "market_time": None}
            service = Scripted((200, {"Content-Type": "application/json"}, json.dumps(told)))
            self.addCleanup(service.end)
            with self.assertRaises(candlekeep.Stale) as caught:
                get_candles("EUR_USD", 5, 1, url=service.url, max_age=360, now=now)
            self.assertEqual(caught.exception.age_s, age_s)
            # Nothing else is asked: by a second answer a newer bar could be there.
            self.assertEqual(len(service.asked), 1)

    def test_what_waits_for_points_is_not_waited_for(self) -> None:
        empty = {"candles": [], "missing": [], "expected_by": None, "market_time": None}
        waits = {"id": 1, "state": "waiting", "note": "6 buckets wait for points, until Thu 2026-12-03 09:56 UTC."}
        kind = {"Content-Type": "application/json"}
        service = Scripted(*((200, kind, json.dumps(told)) for told in (empty, waits, empty)))
        self.addCleanup(service.end)
        with self.assertRaisesRegex(candlekeep.NoData, "fetched: waiting, 6 buckets wait for points, until Thu"):
            get_candles("EUR_USD", 5, 3, url=service.url, fetch=True)
        paths = [path.partition("?")[0] for path, _ in service.asked]
        self.assertEqual(paths, ["/v1/candles", "/v1/fetch", "/v1/candles"])

    def test_a_token_is_not_carried_elsewhere(self) -> None:
        elsewhere = Scripted()
        self.addCleanup(elsewhere.end)
        service = Scripted((307, {"Location": elsewhere.url}, "{}"))
        self.addCleanup(service.end)
        with tempfile.NamedTemporaryFile("w") as token:
            token.write("secret\n")
            token.flush()
            with self.assertRaises(candlekeep.BadRequest):
                get_candles("EUR_USD", 5, url=service.url, token_file=token.name)
        self.assertEqual(service.asked[0][1]["authorization"], "Bearer secret")
        self.assertEqual(elsewhere.asked, [])


class Ledger(unittest.TestCase):
    """What keeps bars from being complete, by the runs of the ledger."""

    def test_a_longer_bar_waits_for_proof_that_a_part_was_closed(self) -> None:
        told = [candlekeep.Hole(0, 600, "stored", "settled"), candlekeep.Hole(600, 900, "closed", "possibly_open")]
        for runs, stored, step, expected in [
            (told, set(), 900, told[1:]),
            (told, {0}, 900, []),
            (told, {0, 300}, 300, []),
            # Nothing is told of any part of it: the market may have been shut.
            (told[1:], set(), 900, []),
        ]:
            self.assertEqual(candlekeep._holes(runs, [], stored, step), expected)

    def test_a_longer_bar_that_is_there_lacks_nothing(self) -> None:
        run = candlekeep.Hole(600, 1_200, "missing", "disconnected")
        part = run._replace(start=900)
        for stored, step, expected in [({0, 900}, 900, []), ({0}, 900, [part]), ({300, 1_200}, 300, [run])]:
            self.assertEqual(candlekeep._holes([run], [], stored, step), expected)

    def test_a_longer_bar_is_what_the_ledger_says_of_it_rather_than_of_its_parts(self) -> None:
        unknown = candlekeep.Hole(0, 4_500, "missing", "not_reached")
        own = [
            candlekeep.Hole(900, 1_800, "missing", "first_start"),
            candlekeep.Hole(1_800, 2_700, "stored", "settled"),
            candlekeep.Hole(2_700, 3_600, "quiet", "not_in_rest"),
        ]
        expected = [unknown._replace(end=900), own[0], unknown._replace(start=3_600)]
        self.assertEqual(candlekeep._holes([unknown], own, {1_800}, 900), expected)
        # What the service says of the same is in `what_is_missing_of_an_answer_is_listed`.


class Source(unittest.TestCase):
    """The files as they are."""

    def test_the_examples_are_python_3_9(self) -> None:
        for name in ("candlekeep.py", "bot.py"):
            with open(os.path.join(EXAMPLES, name), encoding="utf-8") as file:
                ast.parse(file.read(), name, feature_version=(3, 9))


class TheDemo(unittest.TestCase):
    """It takes the longest, so it is begun before all else and looked at last."""

    def test_what_it_prints_for_pandas_runs(self) -> None:
        self.assertEqual(DEMO.process.wait(120), 0, DEMO.said())
        (line,) = re.findall(r"^ *python3 -c (\".*\")$", DEMO.said(), re.MULTILINE)
        options: Any = {"capture_output": True, "text": True, "timeout": PATIENCE_S}
        shown = subprocess.run(f"{sys.executable} -c {line}", shell=True, **options)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertEqual(shown.stdout.count("\n"), 6)
        for close in get_candles("EUR_USD", 5, 5, url=DEMO_URL)["close"]:
            self.assertIn(f" {close:.6f} ", shown.stdout.replace("\n", " \n"))


if __name__ == "__main__":
    unittest.main()
