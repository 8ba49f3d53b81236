"""Collects candles with trading-ig and the official Lightstreamer client, and compares them with REST.

Environment: IG_API_URL, START and END (epoch seconds of the streamed span), CLIENT (name to print).
"""

import logging
import os
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

# Silences remarks about optional packages that are not needed here.
logging.disable(logging.WARNING)

import trading_ig.rest
from lightstreamer.client import Subscription, SubscriptionListener
from trading_ig import IGService, IGStreamService

START, END = int(os.environ["START"]), int(os.environ["END"])
BUCKET_S = 300
PATIENCE_S = 120
PAIRS = (
    "EURUSD GBPUSD AUDUSD NZDUSD USDCAD USDCHF USDJPY EURGBP EURAUD EURNZD EURCAD EURCHF EURJPY GBPAUD "
    "GBPNZD GBPCAD GBPCHF GBPJPY AUDNZD AUDCAD AUDCHF AUDJPY NZDCAD NZDCHF NZDJPY CADCHF CADJPY CHFJPY"
).split()
PRICES = [f"{side}_{field}" for side in ("BID", "OFR") for field in ("OPEN", "HIGH", "LOW", "CLOSE")]
FIELDS = ["UTM", "LTV", "CONS_TICK_COUNT", "CONS_END", *PRICES, "LTP_CLOSE"]


def epic(pair):
    return f"CS.D.{pair}.CFD.IP"


class Collector(SubscriptionListener):
    """Keeps every closed candle: epic -> bucket start -> values."""

    def __init__(self):
        self.candles, self.updates, self.errors = {}, 0, []
        self.last_update = time.monotonic()
        self.lock = threading.Lock()

    def onItemUpdate(self, update):
        values = {field: update.getValue(field) for field in FIELDS}
        with self.lock:
            self.updates += 1
            self.last_update = time.monotonic()
            if values["CONS_END"] != "1":
                return
            of_epic = self.candles.setdefault(update.getItemName().split(":")[1], {})
            start = int(values["UTM"]) // 1000
            if start in of_epic:
                self.errors.append(f"{update.getItemName()} closed twice at {start}")
            if values["LTP_CLOSE"] is not None:
                self.errors.append("a traded price where there is none")
            of_epic[start] = values

    def onSubscriptionError(self, code, message):
        self.errors.append(f"subscription refused: {code} {message}")

    def onItemLostUpdates(self, name, position, lost):
        self.errors.append(f"{name} lost {lost} updates")


def streamed(values):
    prices = tuple(float(values[field]) for field in PRICES)
    return (*prices, int(values["CONS_TICK_COUNT"]), int(values["LTV"]))


def fetched(bar):
    legs = [bar[f"{field}Price"] for field in ("open", "high", "low", "close")]
    volume = bar["lastTradedVolume"]
    return (*(leg["bid"] for leg in legs), *(leg["ask"] for leg in legs), volume, volume)


def main():
    trading_ig.rest.D_BASE_URL["demo"] = os.environ["IG_API_URL"]
    service = IGService("demo-user", "demo-password", "demo-key", "demo", acc_number="SIM01")
    stream = IGStreamService(service)
    stream.acc_number = "SIM01"
    stream.create_session(version="2")
    session = service.read_session()
    assert session["accountId"] == "SIM01", session
    offset = timedelta(hours=session["timezoneOffset"])

    applications = service.get_client_apps()
    assert applications[0]["apiKey"] == "demo-key", applications
    markets = service.fetch_markets_by_epics(",".join(epic(pair) for pair in PAIRS))
    assert len(markets) == len(PAIRS), len(markets)
    latest = service.fetch_historical_prices_by_epic(epic("EURUSD"), numpoints=25, wait=0)
    assert len(latest["prices"]) == 25, "two pages of minutes"
    latest = service.fetch_historical_prices_by_epic_and_num_points(epic("EURUSD"), "MINUTE_5", 12)
    assert len(latest["prices"]) == 12, latest

    # One subscription for half of the items and one for each of the others.
    collector = Collector()
    items = [f"CHART:{epic(pair)}:5MINUTE" for pair in PAIRS]
    for group in [items[:14], *([item] for item in items[14:])]:
        subscription = Subscription("MERGE", group, FIELDS)
        subscription.setRequestedSnapshot("yes")
        subscription.addListener(collector)
        stream.subscribe(subscription)

    begun = time.monotonic()
    collector.last_update = begun
    while True:
        time.sleep(0.5)
        with collector.lock:
            silent_s = time.monotonic() - collector.last_update
            done = sum(END - BUCKET_S in candles for candles in collector.candles.values())
        # Thin pairs may be silent in the last bucket.
        if done == len(PAIRS) or (done > 0 and silent_s > 5):
            break
        if silent_s > PATIENCE_S or collector.errors:
            sys.exit(f"the stream is silent or failed: {collector.errors[:5]} {collector.updates} updates")
    streamed_s = time.monotonic() - begun
    stream.disconnect()

    compared, differences = 0, list(collector.errors)
    for pair in PAIRS:
        local = [datetime.fromtimestamp(at, timezone.utc) + offset for at in (START, END - BUCKET_S)]
        texts = [at.strftime("%Y-%m-%d %H:%M:%S") for at in local]
        answer = service.fetch_historical_prices_by_epic_and_date_range(epic(pair), "MINUTE_5", *texts)
        told = collector.candles.get(epic(pair), {})
        true = {}
        for bar in answer["prices"]:
            start = datetime.strptime(bar["snapshotTime"], "%Y/%m/%d %H:%M:%S").replace(tzinfo=timezone.utc)
            true[int((start - offset).timestamp())] = fetched(bar)
        for start in sorted(told.keys() | true.keys()):
            left, right = told.get(start), true.get(start)
            compared += 1
            if left is None or right is None or streamed(left) != right:
                differences.append(f"{pair} {start}: stream {left and streamed(left)}, REST {right}")
    service.logout()
    print(
        f"{os.environ['CLIENT']}: {collector.updates} updates in {streamed_s:.1f} s, "
        f"{compared} candles compared, {len(differences)} differences",
        flush=True,
    )
    for difference in differences[:10]:
        print(f"  {difference}")
    # The Lightstreamer client leaves a thread behind that would keep the process alive.
    sys.stdout.flush()
    os._exit(1 if differences or compared == 0 else 0)


main()
