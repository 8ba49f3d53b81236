"""The program, a simulator of IG and a PostgreSQL server, for tests; gone with the process."""

from __future__ import annotations

import glob
import http.server
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any, Callable, Dict, List, Sequence, Tuple

BINARY = os.environ["CANDLEKEEP_BINARY"]
REPOSITORY = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
EXAMPLES = os.path.join(REPOSITORY, "examples", "python")
#: Seconds that anything may take.
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what: str, look: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What `look` answers as soon as that is anything."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s} s in vain for {what}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class Program:
    """A process of ours, with its output in a file."""

    def __init__(self, folder: str, name: str, command: List[str], **options: Any) -> None:
        self.log = os.path.join(folder, f"{name}.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)

    def said(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class World:
    """A folder, a simulator, and a service that collects from it into `candlekeep.db`."""

    def __init__(self, *simulator: str, faults: Sequence[Dict[str, Any]] = ()) -> None:
        self.folder = tempfile.mkdtemp(prefix="candlekeep-python-")
        self.programs: List[Program] = []
        self.path = os.path.join(self.folder, "candlekeep.db")
        self.file_url = f"sqlite:///{self.path}"
        self.http_url = f"http://127.0.0.1:{free_port()}"
        port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": self.folder,
            "IG_API_URL": f"http://127.0.0.1:{port}/gateway/deal",
            **dict.fromkeys(("IG_API_KEY", "IG_USERNAME", "IG_PASSWORD"), "x"),
            "CANDLEKEEP_CLOCK": "stream",
            "CANDLEKEEP_SESSION_LOGIN_SPACING_S": "0",
            "CANDLEKEEP_HTTP": self.http_url[len("http://") :],
            "DATABASE_URL": self.file_url,
        }
        script = os.path.join(self.folder, "faults.json")
        with open(script, "w", encoding="utf-8") as file:
            json.dump(list(faults), file)
        self.serve(f"127.0.0.1:{port}", "simulate", "--listen", f"127.0.0.1:{port}", "--faults", script, *simulator)

    def start(self, command: str, *arguments: str, **variables: str) -> Program:
        environment = {**self.environment, **variables}
        program = Program(self.folder, command, [BINARY, command, *arguments], env=environment, cwd=self.folder)
        self.programs.append(program)
        return program

    def serve(self, listen: str, command: str, *arguments: str, **variables: str) -> Program:
        """A process that answers on an address."""
        program = self.start(command, *arguments, **variables)
        until(command, lambda: answers(f"http://{listen}/healthz") or program.process.poll() is not None)
        if program.process.poll() is not None:
            said = program.said()
            self.end()
            raise AssertionError(f"{command} ends: {said}")
        return program

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [BINARY, *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def collect(self, **variables: str) -> Program:
        return self.serve(variables.get("CANDLEKEEP_HTTP", self.environment["CANDLEKEEP_HTTP"]), "run", **variables)

    def rows(self, sql: str, *values: object) -> List[Any]:
        if not os.path.exists(self.path):
            return []
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)) as db:
            # It serves before it has made its tables.
            made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'candles'").fetchall()
            return db.execute(sql, values).fetchall() if made else []

    def end(self) -> None:
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(self.folder)


class Server:
    """A PostgreSQL server with a database of each name asked for."""

    def __init__(self) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
        binaries = os.path.dirname(found[-1] if found else shutil.which("initdb") or "")
        assert binaries, "PostgreSQL is not installed: initdb is not found"
        self.folder = tempfile.mkdtemp(prefix="candlekeep-postgres-")
        # It does not run as root.
        options: Dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            options.update(user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])
        data = os.path.join(self.folder, "data")
        made = [f"{binaries}/initdb", "--auth=trust", "--username=candlekeep", "--encoding=UTF8", "--no-sync", data]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, env={"LC_ALL": "C.UTF-8"}, **options)
        self.port = free_port()
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        command = [f"{binaries}/postgres", "-D", data, *(f"--{setting}" for setting in settings)]
        self.program = Program(self.folder, "server", command, **options)

    def database(self, name: str) -> str:
        import psycopg

        def make() -> bool:
            try:
                with psycopg.connect(self.url("postgres"), autocommit=True) as db:
                    db.execute(f"CREATE DATABASE {name}")
                return True
            except psycopg.OperationalError:
                return False

        until("the server", make)
        return self.url(name)

    def url(self, name: str, user: str = "candlekeep") -> str:
        return f"postgres://{user}@127.0.0.1:{self.port}/{name}"

    def end(self) -> None:
        self.program.stop(signal.SIGINT)
        shutil.rmtree(self.folder)


class Scripted:
    """A service that answers what it is told to: status, headers and body, one after the other.

    An answer with the header `Held` is never finished.
    """

    def __init__(self, *answers: Tuple[int, Dict[str, str], str]) -> None:
        left, self.asked = list(answers), []
        asked = self.asked
        self.ends = ends = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, headers, body = left.pop(0) if left else (404, {}, '{"error": "not_found", "reason": "over"}')
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())
                if "Held" in headers:
                    ends.wait(PATIENCE_S)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def end(self) -> None:
        self.ends.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Bot(Program):
    """`bot.py`, and what it has said of each bar."""

    def __init__(self, world: World, name: str, *arguments: str) -> None:
        command = [sys.executable, os.path.join(EXAMPLES, "bot.py"), *arguments]
        super().__init__(world.folder, name, command, env={**os.environ, "CANDLEKEEP_CLOCK": "stream"})
        world.programs.append(self)

    def lines(self) -> List[List[str]]:
        """Of each bar `[seq, pair, timeframe, date, time, close=, what, …]`."""
        return [line.split() for line in self.said().splitlines() if line[:1].isdigit()]
