#!/usr/bin/env python3
"""A bot that computes indicators on each settled bar and says what it would do. It trades nothing.

    python3 bot.py EUR_USD 5 --url http://127.0.0.1:8017

The service pushes each bar, which is one line. It decides on the newest bar alone, once, though that be corrected
later, and on nothing while bars are missing or late: then it says why not. What it has decided it remembers for as
long as it runs. A service that is restarted is waited for, and what it stored meanwhile is told without a gap; while
it is away, or bars are late, a line says so every now and then.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import candlekeep
import pandas as pd

FAST, SLOW, ATR = 12, 26, 14


def indicators(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars with two moving averages and the average true range (Wilder's)."""
    before = bars["close"].shift()
    ranges = [bars["high"] - bars["low"], (bars["high"] - before).abs(), (bars["low"] - before).abs()]
    return bars.assign(
        fast=bars["close"].ewm(span=FAST, adjust=False).mean(),
        slow=bars["close"].ewm(span=SLOW, adjust=False).mean(),
        atr=pd.concat(ranges, axis=1).max(axis=1).ewm(alpha=1 / ATR, adjust=False).mean(),
    )


def decide(bars: pd.DataFrame) -> tuple[str, str]:
    """What to do after the last of these bars, and why. Put your own here."""
    told = indicators(bars)
    last, lead = told.iloc[-1], told["fast"] - told["slow"]
    crossed = (lead.iloc[-1] > 0) != (lead.iloc[-2] > 0)
    why = f"fast={last.fast:.5f} slow={last.slow:.5f} atr={last.atr:.5f}"
    if crossed and abs(lead.iloc[-1]) > 0.02 * last.atr:
        return ("BUY" if lead.iloc[-1] > 0 else "SELL"), why
    return "HOLD", why


def minutes(timeframe: str) -> str:
    """A bar's length as bars themselves tell it, however it was written: 5m and 1h are 5 and 60."""
    plain = timeframe.strip().lower()
    return "60" if plain == "1h" else plain.removesuffix("m")


def max_age(args: argparse.Namespace, timeframe: str) -> float:
    """How old the newest bar may be: the next is stored by then."""
    return int(timeframe) * 60 + 60 if args.max_age is None else args.max_age


def silence(event: candlekeep.Event, args: argparse.Namespace) -> str | None:
    """What is wrong where nothing has come for a while; none where nothing is. Who has a position acts on it here."""
    if not event.data["connected"]:
        return f"AWAY {event.data['why']}"
    try:
        candlekeep.get_candles(args.pair, args.timeframe, 1, url=args.url, max_age=max_age(args, args.timeframe))
    except (candlekeep.Stale, candlekeep.NoData, candlekeep.Unavailable) as error:
        return f"LATE {type(error).__name__}: {error}"
    return None


def consider(bar: dict[str, Any], args: argparse.Namespace) -> tuple[str, str]:
    """A decision on one bar, from bars that are complete and fresh, or none."""
    look = {"url": args.url, "max_age": max_age(args, bar["timeframe"]), "complete": True}
    try:
        bars = candlekeep.get_candles(bar["pair"], bar["timeframe"], args.count, **look)
    except (candlekeep.Stale, candlekeep.Incomplete, candlekeep.NoData, candlekeep.Unavailable) as error:
        return "WAIT", f"{type(error).__name__}: {error}"
    newest = bars["time"].iloc[-1]
    if newest != pd.Timestamp(bar["time"], unit="s"):
        return "WAIT", f"not the newest bar, which is that of {newest:%Y-%m-%d %H:%M}"
    return decide(bars)


def lines(events: Iterable[candlekeep.Event], args: argparse.Namespace) -> Iterator[str]:
    """What there is to say of each event."""
    # Start of the newest bar that was decided on, so that one that is corrected is not traded on twice.
    decided = 0
    for event in events:
        if event.kind == "idle":
            wrong = silence(event, args)
            if wrong:
                yield f"idle {wrong}"
            continue
        if event.kind == "reset":
            # Nothing else is kept here from bar to bar: every decision reads its bars anew.
            yield f"{event.seq} reset: {event.data.get('reason')}"
            continue
        bar = event.data
        what, why = ("KEEP", "decided already") if bar["time"] == decided else consider(bar, args)
        if what not in ("KEEP", "WAIT"):
            decided = bar["time"]
        stamp = pd.Timestamp(bar["time"], unit="s")
        told = "" if event.kind == "candle" else f" (revision {bar['revision']})"
        yield (
            f"{event.seq} {bar['pair']} {bar['timeframe']} {stamp:%Y-%m-%d %H:%M}"
            f" close={bar['close']}{told} {what} {why}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("pair")
    parser.add_argument("timeframe", type=minutes)
    parser.add_argument("--url", help="the service, http://127.0.0.1:8017; default: $CANDLEKEEP_HTTP")
    parser.add_argument("--count", type=int, default=100, help="bars to compute on (%(default)s)")
    parser.add_argument("--max-age", type=float, help="seconds of market time (a bar's length and 60)")
    parser.add_argument("--timeout", type=float, default=20, help="seconds of silence, then it looks (%(default)s)")
    parser.add_argument("--after", type=int, help="seq to go on from; default: what is new from now on")
    args = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s")
    wanted = {"url": args.url, "after": args.after, "timeout": args.timeout}
    try:
        for line in lines(candlekeep.follow([args.pair], [args.timeframe], **wanted), args):
            print(line, flush=True)
    except (candlekeep.CandlekeepError, ValueError) as error:
        sys.exit(f"bot.py: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
