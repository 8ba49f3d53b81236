"""Whether a live service tells all that the examples ask for, and a live Prometheus finds something for each.

check.py SERVICE PROMETHEUS EXAMPLES: two addresses and a folder. Standard library alone.
"""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

service, prometheus, examples = sys.argv[1:]
# Time for bars to be settled and asked for, seconds.
PATIENCE_S = 90


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def wait_for(what, attempt):
    """What `attempt` answers once it does not fail any more."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except (AssertionError, OSError) as problem:
            if time.monotonic() > deadline:
                sys.exit(f"{what}: {problem}")
            time.sleep(0.5)


def expressions(dashboard):
    """Every expression of a dashboard, by where it stands."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], annotation["expr"]


def without_variables(expression):
    return expression.replace("$job", "candlekeep").replace("$instance", ".*")


def ask(expression):
    query = urllib.parse.urlencode({"query": expression})
    try:
        answer = json.loads(get(f"http://{prometheus}/api/v1/query?{query}"))
    except urllib.error.HTTPError as refused:
        sys.exit(f"refused: {expression}\n{refused.read().decode()}")
    return answer["data"]["result"]


with open(f"{examples}/grafana/candlekeep.json", encoding="utf-8") as file:
    dashboard = json.load(file)
with open(f"{examples}/prometheus/rules.yml", encoding="utf-8") as file:
    rules = file.read()

asked = list(expressions(dashboard))
named = set(re.findall(r"\b(?:candlekeep|process)_[a-z0-9_]+", rules + " ".join(expr for _, expr in asked)))
named = {re.sub(r"_(bucket|sum|count)$", "", name) if name.endswith("_seconds_bucket") else name for name in named}
assert len(named) > 30, named


def served():
    text = get(f"http://{service}/metrics")
    told = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    assert not named - told, f"not served: {sorted(named - told)}"
    return text, told


text, told = wait_for("metrics", served)
promtool = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
assert promtool.returncode == 0, promtool.stdout + promtool.stderr
# The process's own are named as everybody's are.
aside = {name for name in told if name.startswith("candlekeep_")} - named
print(f"{len(told)} metrics, all that are named are served; in no expression: {', '.join(sorted(aside))}")

# Nothing may lack its bar, and nothing may have been started anew.
QUIET = {"Pairs whose newest bar is owed", "Alerts", "Starts"}
empty = []
for title, expression in asked:
    expression = without_variables(expression)
    assert "$" not in expression, expression
    if title in QUIET:
        ask(expression)
        continue

    def found():
        result = ask(expression)
        assert result, f"nothing found for {title}: {expression}"
        # A quotient of what has not happened yet is no number.
        assert any(series["value"][1] != "NaN" for series in result), f"no number for {title}: {expression}"

    wait_for("dashboard", found)
print(f"{len(asked)} expressions of the dashboard find something")


def judged():
    groups = json.loads(get(f"http://{prometheus}/api/v1/rules"))["data"]["groups"]
    judged = [rule for group in groups for rule in group["rules"]]
    assert judged and all(rule["health"] == "ok" for rule in judged), judged
    return judged


print(f"{len(wait_for('rules', judged))} rules are judged")
ids = [panel["id"] for panel in dashboard["panels"]]
assert len(ids) == len(set(ids)), "two panels have one id"
cells = {}
for panel in dashboard["panels"]:
    place = panel["gridPos"]
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            assert x < 24 and (x, y) not in cells, f"{panel['title']} lies over {cells.get((x, y))}"
            cells[x, y] = panel["title"]
