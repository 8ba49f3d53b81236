"""Runs every `sh` block of README.md and docs/, in the throw-away root of tests/readme/run."""

from __future__ import annotations

import glob
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from typing import Callable, List, Sequence, Tuple

BINARY = os.environ["BUILT"]
REPOSITORY = os.getcwd()
#: Seconds that anything may take.
PATIENCE_S = 90
#: What a service on the simulator needs beside credentials.
SIMULATED = {
    "IG_API_URL": "http://127.0.0.1:8018/gateway/deal",
    "CANDLEKEEP_CLOCK": "stream",
    "CANDLEKEEP_SESSION_LOGIN_SPACING_S": "0",
    "CANDLEKEEP_HISTORY_REQUESTS_PER_MINUTE": "10000",
}
#: How the authority that vouches for the test's server is told of; the unit sees no /tmp of others.
TRUSTED = "verify-full&sslrootcert=/srv/root.pem"
CREDENTIALS = dict.fromkeys(("IG_API_KEY", "IG_USERNAME", "IG_PASSWORD"), "x")

#: With -u it is another user's home, too.
SUDO = """#!/bin/sh
[ "$1" = -u ] || exec "$@"
user=$2
shift 2
exec runuser -u "$user" -- env HOME="$(getent passwd "$user" | cut -d: -f6)" "$@"
"""
#: Blocks that another script runs, and what stands there of each of their lines.
ELSEWHERE = {
    "cargo run --release -- demo": (".ci/full", ".ci/run"),
    "rustup target add x86_64-unknown-linux-musl": (".ci/full",),
}
#: The bot needs pandas; the tests that have it read these lines themselves.
OF_PYTHON = "python3 examples/python/bot.py"


class Blocks:
    """The blocks that are left, in the order of the documents."""

    def __init__(self) -> None:
        self.left: List[Tuple[str, str]] = []
        for path in ["README.md", *sorted(glob.glob("docs/*.md"))]:
            with open(path, encoding="utf-8") as file:
                for body in re.findall(r"^```sh\n(.*?)^```", file.read(), re.DOTALL | re.MULTILINE):
                    self.left.append((path, body))

    def take(self, begins: str) -> str:
        """The one block that begins so."""
        found = [one for one in self.left if one[1].startswith(begins)]
        assert len(found) == 1, f"{len(found)} blocks begin with {begins!r}"
        self.left.remove(found[0])
        return found[0][1]


def shell(body: str, folder: str, within_s: float = PATIENCE_S, codes: Sequence[int] = (0,), said: str = "",
          given: str = "", user: str = "", **variables: str) -> str:
    """Runs a block, or a line of one; it ends with one of `codes` and says what `said` describes."""
    command = ["bash", "-euo", "pipefail", "-c", body]
    if user:
        command = ["runuser", "-u", user, "--", *command]
    print("\n".join(f"$ {line}" for line in body.rstrip().splitlines()), flush=True)
    with tempfile.TemporaryFile("w+") as said_to, tempfile.TemporaryFile("w+") as asks:
        asks.write(given)
        asks.seek(0)
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **variables}, start_new_session=True,
                                   stdin=asks, stdout=said_to, stderr=said_to)
        late = False
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said_to.seek(0)
        told = said_to.read()
    assert not late, f"not over within {within_s} s, said: {told}"
    assert process.returncode in codes, f"ended with {process.returncode}, said: {told}"
    assert re.search(said, told, re.MULTILINE), f"not as {said!r}: {told}"
    return told


class Standing:
    """A block whose last command runs until it is told to stop."""

    def __init__(self, body: str, folder: str, **variables: str) -> None:
        print("\n".join(f"$ {line}" for line in body.rstrip().splitlines()), "&", flush=True)
        self.log = os.path.join("/tmp", f"standing-{time.monotonic_ns()}.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["bash", "-euc", body], cwd=folder, env={**os.environ, **variables},
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def said(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def until(self, what: str, look: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not look():
            assert self.process.poll() is None, f"{what}: ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s: {self.said()}"
            time.sleep(0.1)

    def stop(self, codes: Sequence[int] = (0,)) -> None:
        """As Ctrl-C does: the whole group hears it."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(30)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.returncode in codes, f"stopped with {self.process.returncode}: {self.said()}"


def listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def has_bars(database: str, timeframe: str = "5") -> bool:
    asked = [BINARY, "candles", "EUR_USD", timeframe, "--count", "3", "--format", "csv", "--database", database]
    return len(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()) == 4


def written(path: str, text: str, mode: int = 0o644) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


def without_comments(body: str) -> List[str]:
    return [re.sub(r"\s+# .*$", "", line) for line in body.splitlines() if not line.startswith("#")]


def simulator(folder: str, *arguments: str) -> Standing:
    """A week of the dates that the documents speak of, as fast as it is listened to."""
    market = ["--from", "2026-01-04T22:00", "--to", "2026-01-10", "--speed", "max", "--rows-per-bar", "5"]
    market += ["--allowance", "1000000", *arguments]
    standing = Standing(f"candlekeep simulate {' '.join(market)}", folder)
    standing.until("the simulator", lambda: listens(8018))
    return standing


def in_a_folder(blocks: Blocks) -> None:
    """What a person does with a service of his own, and a bot with its bars."""
    folder = "/srv/folder"
    os.makedirs(folder)
    market = simulator(folder)
    service = Standing(blocks.take("candlekeep init").replace("=...", "=x"), folder, **SIMULATED)
    service.until("a configuration", lambda: os.path.exists(f"{folder}/candlekeep.toml"))
    for pair in ("EUR_USD", "GBP_USD"):
        asked = ["gaps", "--complete", pair, "5", "2026-01-05", "2026-01-09T21:00"]
        service.until("a week", lambda: subprocess.run([BINARY, *asked], cwd=folder, capture_output=True).returncode == 0)

    short = without_comments(blocks.take("candlekeep run  "))
    assert short[0] == "candlekeep run", short
    shell(short[1], folder, said="running since")
    shell(short[2], folder, said="^2026-01-09 21:45 ")

    bars = without_comments(blocks.take("candlekeep candles EUR_USD 5 --count 20"))
    shell(bars[0], folder, said="^2026-01-09 21:55 ")
    shell(bars[1], folder)
    with open(f"{folder}/eurusd.csv", encoding="utf-8") as file:
        assert len(file.readlines()) == 97, "a day has 96 bars of 15 minutes"
    shell(bars[2], folder, said='"price":"bid"')
    # Nothing of this was stored by then.
    shell(bars[3], folder)
    assert len(bars) == 4, bars

    watched = blocks.take("candlekeep status --watch=60")
    lines = without_comments(watched)
    shell(f"timeout 5 bash -o pipefail -c {shlex.quote(lines[0])}", folder, codes=(124,))
    assert "not yet" not in shell(lines[1], folder), "it is complete"

    asked = without_comments(blocks.take("candlekeep gaps  "))
    written(f"{folder}/backtest.py", "print('a backtest')\n")
    written("/usr/local/bin/python", "#!/bin/sh\nexec python3 \"$@\"\n", 0o755)
    shell(asked[0], folder)
    shell(asked[1], folder, said="^a backtest$")
    shell(asked[2], folder, said="ledger|bars")
    shell(asked[3], folder, said="2026-01-05")
    assert len(asked) == 4, asked

    curls = without_comments(blocks.take("curl -s 'http"))
    shell(curls[0], folder, said='"complete":')
    shell(curls[1], folder, said="^timestamp|^time|^2026|^1767")
    shell(f"timeout 3 {curls[2]}", folder, codes=(124,), said="^id: [0-9]+$")
    shell(curls[3], folder, said='"id":')
    assert len(curls) == 4, curls

    files = without_comments(blocks.take("candlekeep export > candles.csv"))
    shell(files[0], folder)
    shell(files[1], folder)
    # Either it is built in, or what is to be done is said.
    shell(f"{files[2]} || test $? = 2", folder, said="--features parquet|^$")
    with open(f"{folder}/week.csv", encoding="utf-8") as week, open(f"{folder}/history.csv", "w", encoding="utf-8") as history:
        history.writelines(week.readlines()[:200])
    shell(files[3], folder, said="199")
    shell(files[4], folder, said="199")
    assert len(files) == 5, files

    for line in without_comments(blocks.take("candlekeep backfill --plan")):
        shell(line, folder, codes=(0, 3))
    os.makedirs("/backup")
    shell(blocks.take("candlekeep backup"), folder, said="checked")
    service.stop()

    # To and from a server, for which a person has a password file of his own.
    server(folder)
    shell("createuser --pwprompt candlekeep && createdb --owner candlekeep candles", "/", user="postgres",
          given="the password\nthe password\n")
    written(f"{folder}/.pgpass", "db.example:5432:candles:candlekeep:the password\n", 0o600)
    moved = [line.replace("verify-full", TRUSTED) for line in without_comments(blocks.take("candlekeep copy"))]
    shell(moved[0], folder, HOME=folder, said="every table read back and compared")
    shell(moved[1], folder, HOME=folder, said="every table read back and compared")
    assert len(moved) == 2, moved
    shell("dropdb candles && dropuser candlekeep", "/", user="postgres")

    for line in without_comments(blocks.take("candlekeep candles EUR_USD 5 --price bid")):
        shell(line, folder, said="^2026-01-09 21:55 ")

    # A transcript of what is said, and its play.
    recorded = Standing(blocks.take("candlekeep run --record"), folder, **SIMULATED, **CREDENTIALS)
    recorded.until("a recording", lambda: "streaming session begun" in recorded.said())
    recorded.stop()
    market.stop()
    played = Standing(blocks.take("candlekeep simulate --transcript"), folder)
    played.until("a player", lambda: listens(8018))
    played.stop()


def on_the_simulator(blocks: Blocks) -> None:
    """A market at six hundred times its speed, in two terminals."""
    folder = "/srv/simulated"
    os.makedirs(folder)
    market = Standing(blocks.take("candlekeep simulate --speed 600"), folder)
    market.until("the simulator", lambda: listens(8018))
    service = Standing(blocks.take("export IG_API_URL"), folder)
    service.until("bars", lambda: has_bars(f"sqlite:///{folder}/simulated.db"))
    service.stop()
    market.stop()


def backups(blocks: Blocks) -> None:
    """One now, and no more than so many."""
    lines = without_comments(blocks.take("sudo install -m 0644 -t /etc/systemd/system /usr/share/doc"))
    for line in lines[:2]:
        shell(line, "/")
    kept = "/var/lib/candlekeep-backup"
    shell(f"install -d -o candlekeep -g candlekeep -m 0750 {kept}", "/")
    for day in range(1, 21):
        written(f"{kept}/candlekeep-2020-01-{day:02}.db", "old")
    shell(f"chown candlekeep: {kept}/*", "/")
    shell(lines[2], "/", said="candlekeep candlekeep .* candlekeep-2[0-9-]*.db$")
    found = sorted(os.listdir(kept))
    assert len(found) == 14 and found[0] == "candlekeep-2020-01-08.db", found
    assert found[-1] == time.strftime("candlekeep-%Y-%m-%d.db", time.gmtime()), found
    newest = f"{kept}/{found[-1]}"
    shell(f"stat -c '%a %U' {newest} && candlekeep candles EUR_USD 5 --database sqlite://{newest}", "/",
          said="^640 candlekeep$")
    # Twice a day is one of that day.
    shell(lines[2], "/")
    assert sorted(os.listdir(kept)) == found, os.listdir(kept)
    shell(lines[3], "/")
    shell("systemctl is-active candlekeep-backup.timer", "/", said="^active$")
    assert len(lines) == 4, lines


def on_a_server(blocks: Blocks) -> None:
    """The service and those who read, first by whom they are, then by a password."""
    def collects(reader: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        asked = ["runuser", "-u", reader, "--", "candlekeep", "candles", "EUR_USD", "5", "--count", "3"]
        while subprocess.run(asked, capture_output=True, check=False, cwd="/").returncode:
            assert time.monotonic() < deadline, f"{reader} reads nothing"
            time.sleep(0.2)

    here = without_comments(blocks.take("sudo -u postgres createuser candlekeep\n"))
    for line in here[:-1]:
        shell(line, "/")
    shell(here[-1], "/", said="^database +postgres:///candles")
    assert len(here) == 5, here
    collects("candlekeep")
    shell("candlekeep status", "/", codes=(1, 78), said="root")
    readers = without_comments(blocks.take("sudo -u postgres createuser bot\n"))
    for line in readers[:-1]:
        shell(line, "/")
    shell(readers[-1], "/", said="^database +postgres:///candles")
    collects("bot")
    shell("systemctl stop candlekeep && sudo -u postgres dropdb candles && sudo -u postgres dropuser candlekeep", "/")

    there = [line.replace("verify-full", TRUSTED.replace("&", r"\&")) for line in
             without_comments(blocks.take("sudo -u postgres createuser --pwprompt candlekeep"))]
    shell(there[0], "/", given="the password\nthe password\n")
    for line in there[1:-1]:
        shell(line, "/")
    shell(there[-1], "/", said="^database +postgres://candlekeep@db.example/candles")
    assert len(there) == 6, there
    collects("candlekeep")


def server(folder: str) -> None:
    """A PostgreSQL that is called db.example and can prove it."""
    tools = os.path.dirname(sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))[-1])
    data = "/tmp/postgres"
    made = f"""
        echo 127.0.0.1 db.example >> /etc/hosts
        install -d -o postgres /run/postgresql {data}
        runuser -u postgres -- {tools}/initdb --auth-local peer --auth-host scram-sha-256 --no-sync {data} > /dev/null
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \\
            -keyout /tmp/authority.key -out /srv/root.pem 2> /dev/null
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=db.example \\
            -keyout {data}/server.key -out /tmp/server.csr 2> /dev/null
        openssl x509 -req -in /tmp/server.csr -CA /srv/root.pem -CAkey /tmp/authority.key -CAcreateserial -days 2 \\
            -extfile <(echo subjectAltName=DNS:db.example) -out {data}/server.crt 2> /dev/null
        chown postgres {data}/server.*
        chmod 600 {data}/server.key
        runuser -u postgres -- {tools}/pg_ctl --pgdata {data} --log {data}/log --wait \\
            --options '-k /run/postgresql -c ssl=on -c listen_addresses=127.0.0.1' start > /dev/null
    """
    shell(made, folder)


def under_systemd(blocks: Blocks) -> None:
    """The package and its units."""
    for unit in ("candlekeep", "candlekeep@live"):
        environment = " ".join(f"{name}={value}" for name, value in SIMULATED.items())
        written(f"/etc/systemd/system/{unit}.service.d/test.conf", f"[Service]\nEnvironment={environment}\n")
    folder = REPOSITORY
    market = simulator("/tmp")
    installed = blocks.take("packaging/build /tmp")
    shell(installed.replace("packaging/build /tmp ", f"packaging/build /tmp {BINARY} "), folder, within_s=300)
    shell("systemctl is-active candlekeep", folder, said="^active$")
    follow, *others = blocks.take("journalctl -u candlekeep -f").splitlines()
    journal = Standing(follow, folder)
    journal.until("the service's lines", lambda: "logged in" in journal.said())
    journal.stop(codes=(0, -signal.SIGINT, 130))
    for line in others:
        # A journal without such lines is 1 for --grep.
        shell(line, folder, codes=(0, 1) if "--grep" in line else (0,))
    doctor = blocks.take("systemd-run --pipe")
    shell(doctor, folder, codes=(0, 1), said="^ok +credentials")
    shell("adduser --quiet --disabled-password --gecos '' bot && adduser --quiet bot candlekeep", folder)
    service = Standing("sleep infinity", "/tmp")
    service.until("bars that the group reads", lambda: subprocess.run(
        ["runuser", "-u", "bot", "--", "candlekeep", "candles", "EUR_USD", "5"], capture_output=True).returncode == 0)

    backups(blocks)
    shell(blocks.take("sudo install -d -m 0700 /etc/candlekeep/live"), folder)
    shell(blocks.take("cd /usr/share/doc"), folder)
    told = "systemctl show candlekeep-alert@candlekeep.service.service --property Result --value"
    shell(told, folder, said="^success$")

    on_a_server(blocks)
    shell("sed -i 's|^url = .*|url = \"sqlite:////var/lib/candlekeep/candlekeep.db\"|' /etc/candlekeep/candlekeep.toml", folder)

    encrypted = next(body for path, body in blocks.left if "systemd-creds encrypt" in body)
    blocks.left.remove(next(one for one in blocks.left if one[1] == encrypted))
    shell(encrypted.replace("systemd-creds encrypt ", "systemd-creds encrypt --with-key=host "), folder)
    written("/etc/systemd/system/candlekeep.service.d/encrypted.conf",
            "[Service]\nLoadCredentialEncrypted=ig:/etc/candlekeep/credentials\n")
    shell("systemctl daemon-reload && systemctl restart candlekeep && systemctl is-active candlekeep", folder, said="^active$")

    # By hand, what the package does.
    shell("dpkg --purge candlekeep && rm -rf /var/lib/candlekeep /etc/candlekeep && userdel candlekeep", folder)
    by_hand = blocks.take("sudo install -m 0755 target/release/candlekeep")
    shell(by_hand.replace("target/release/candlekeep /usr/bin/", "/usr/local/bin/candlekeep /usr/bin/"), folder)
    os.remove("/etc/systemd/system/candlekeep.service.d/encrypted.conf")
    # As it goes on for both.
    shell(installed.split("\n", 1)[1], folder)
    shell("systemctl is-active candlekeep && candlekeep candles EUR_USD 5", folder, said="^active$")
    service.stop(codes=(-signal.SIGINT, 130))
    market.stop()


def until_started() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while subprocess.run(["systemctl", "is-active", "--quiet", "basic.target"], check=False, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, "systemd does not start"
        time.sleep(0.2)


def main() -> None:
    os.symlink(BINARY, "/usr/local/bin/candlekeep")
    # Some images of systems start and stop nothing.
    if os.path.exists("/usr/sbin/policy-rc.d"):
        os.remove("/usr/sbin/policy-rc.d")
    # We are root, and nobody is there to be asked.
    written("/usr/local/bin/sudo", SUDO, 0o755)
    written("/usr/local/bin/systemd-ask-password", "#!/bin/sh\nprintf 'not-a-secret'\n", 0o755)
    written("/usr/local/bin/sudoedit", "#!/bin/sh\nsed -i 's/^#listen = .*/listen = \"off\"/' \"$1\"\n", 0o755)
    written("/usr/local/bin/wall", "#!/bin/sh\ncat > /run/told\n", 0o755)
    blocks = Blocks()
    for begins, places in ELSEWHERE.items():
        lines = without_comments(blocks.take(begins))
        text = "".join(open(place, encoding="utf-8").read() for place in places)
        for line in lines:
            assert line in text, f"{line!r} is not in {places}"
    blocks.take(OF_PYTHON)
    until_started()
    on_the_simulator(blocks)
    in_a_folder(blocks)
    under_systemd(blocks)
    assert not blocks.left, f"nothing runs {blocks.left}"
    print("every command of README.md and docs/ runs")


main()
