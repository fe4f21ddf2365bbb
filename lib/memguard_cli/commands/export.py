# SPDX-License-Identifier: MIT
"""`memguard export`: the metrics of a running build over HTTP, for Prometheus.

Runs in: outside BitBake, beside a build or in a container of its own that sees the build directory.
Covers: reading the build's state anew for every scrape; /metrics and /healthz.
Does not cover: names and meaning of the metrics (memguard.record.metrics), counts out of logs (builds/counts).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import click
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.channels.state import FILE_AGE_S
from memguard.record.metrics import COUNTER, METRICS, Value, measure, measure_end
from memguard_cli.builds.counts import BuildCounts
from memguard_cli.builds.directory import find_directory
from memguard_cli.builds.state import BadState, NoState, read_state
from memguard_cli.errors import UserError
from memguard_cli.screens.text import printable

LISTEN = "127.0.0.1:9723"
# Whoever connects and asks nothing is let go.
_ASKING_S = 10.0


@click.command()
@click.option("--listen", default=LISTEN, metavar="HOST:PORT", help=f"Where to serve; {LISTEN} by default.")
@click.argument("directory", required=False, metavar="[BUILD DIRECTORY]", type=click.Path(path_type=Path))
def export(listen: str, directory: Path | None) -> int:
    """Serve the metrics of the build in BUILD DIRECTORY to Prometheus, until it is stopped.

    \b
    Example:
      memguard export --listen 127.0.0.1:9723 /build
      curl http://127.0.0.1:9723/metrics

    BUILD DIRECTORY is $BUILDDIR or this directory where it is not given, and need not be there yet. While no build runs
    there, memguard_build_running is 0. /healthz says whether the state of the build can be read.
    """
    host, port = parse_listen(listen)
    top = find_top(directory)
    source = StateSource(top)
    registry = CollectorRegistry()
    registry.register(_Collector(source))
    try:
        server = _Server((host, port), _make_app(registry, source))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be served: {error.strerror or error}"
        raise click.UsageError(f"--listen {listen} {why}; a good one is {LISTEN}") from None
    # Who is asked to end, as containers are, has done its work.
    signal.signal(signal.SIGTERM, lambda number, frame: threading.Thread(target=server.shutdown).start())
    with server:
        print(f"memguard: metrics of {printable(str(top))} on {_url(server)}", flush=True)
        source.say(sys.stderr.write)
        server.serve_forever(poll_interval=0.2)
    return 0


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT; an empty host is every address. Raises UsageError."""
    found = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:\s]*)):(?P<port>[0-9]{1,5})", text)
    if found is None or int(found["port"]) > 65535:
        raise click.UsageError(f"--listen {text!r} is not HOST:PORT; a good one is {LISTEN}")
    return found["six"] or found["host"] or "", int(found["port"])


def find_top(given: Path | None) -> Path:
    """The build directory to look at, which need not be there yet. Raises UsageError for what is no directory."""
    top = given or Path(os.environ.get("MEMGUARD_DIR") or os.environ.get("BUILDDIR") or ".")
    try:
        if top.exists() and not top.is_dir():
            raise click.UsageError(f"{top} is not a directory; a good one is the build directory, such as /build")
    except OSError as error:
        raise click.UsageError(f"{top} cannot be read: {error.strerror}") from None
    return top.absolute()


@dataclass(frozen=True)
class Look:
    """What was found at one moment: the numbers, and what is wrong in one sentence, "" where nothing is."""

    values: tuple[Value, ...]
    problem: str = ""


class StateSource:
    """Reads what the build in one build directory says of itself."""

    def __init__(self, top: Path) -> None:
        """top: the build directory, or its MEMGUARD_DIR."""
        self._top = top
        self._directory: Path | None = None
        self._counts: BuildCounts | None = None
        self._lock = threading.Lock()
        self._said: str | None = None
        self._say: Callable[[str], Any] = lambda text: None

    def say(self, say: Callable[[str], Any]) -> None:
        """Call `say` from now on, once for each change, with what is wrong with the state."""
        self._say = say
        self.look()

    def look(self) -> Look:
        """Read the state anew."""
        with self._lock:
            look = self._look()
            if look.problem != self._said:
                if look.problem or self._said:
                    self._say(f"memguard: {printable(look.problem or 'the state can be read again')}\n")
                self._said = look.problem
        return look

    def _look(self) -> Look:
        directory = self._find()
        if self._counts is None or directory != self._directory:
            self._directory, self._counts = directory, BuildCounts(directory)
        counts = self._counts.look()
        try:
            age_s = time.time() - BuildDirectory(directory).state.stat().st_mtime
        except OSError:
            age_s = FILE_AGE_S
        is_fresh = abs(age_s) < FILE_AGE_S
        try:
            state = read_state(directory)
        except NoState:
            waits = "" if directory.is_dir() else f"{directory} is not there yet: no build has run with it"
            return Look(tuple(measure_end(None, counts)), waits)
        except BadState as error:
            return Look((Value("memguard_build_running", int(is_fresh)),), str(error))
        return Look(tuple(measure(state, is_running=is_fresh, was_killed=not is_fresh)))

    def _find(self) -> Path:
        """MEMGUARD_DIR, looked for anew as long as nothing is there: a sidecar may start before the build."""
        if self._directory is not None and BuildDirectory(self._directory).is_written:
            return self._directory
        try:
            return find_directory(self._top, is_awaited=True)
        except UserError:
            return self._top / USUAL_NAME


class _Collector:
    """The metrics as prometheus_client wants them."""

    def __init__(self, source: StateSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """All metrics that there is a value of."""
        families: dict[str, Metric] = {}
        rows = {metric.name: metric for metric in METRICS}
        for value in self._source.look().values:
            row = rows[value.metric]
            family = families.get(row.name)
            if family is None:
                kind = CounterMetricFamily if row.kind == COUNTER else GaugeMetricFamily
                family = families[row.name] = kind(row.name, row.help, labels=[row.label] if row.label else [])
            family.add_metric([value.label] if row.label else [], value.value)  # type: ignore[attr-defined]
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing: otherwise registering would collect."""
        yield from ()


def _make_app(registry: CollectorRegistry, source: StateSource) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", "only GET and HEAD"
        elif path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        elif path == "/healthz":
            problem = source.look().problem
            status, text = ("503 Service Unavailable", printable(problem)) if problem else ("200 OK", "ok")
        else:
            status, text = "404 Not Found", "/metrics and /healthz are here"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    return app


class _Handler(WSGIRequestHandler):
    timeout = _ASKING_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], app: Callable[..., Iterable[bytes]]) -> None:
        host, port = address
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], _Handler)  # type: ignore[arg-type]
        self.set_app(app)

    def server_bind(self) -> None:
        """Bind without asking a name server for a name that nobody needs."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up or says nothing is no error of ours."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _url(server: _Server) -> str:
    host = server.server_name
    return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
