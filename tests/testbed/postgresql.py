# SPDX-License-Identifier: MIT
"""A real PostgreSQL server for the time of a test run, in a directory of its own, reached by a Unix socket only.

Covers: making a cluster with one role that needs its password, starting the server, ending it, leaving nothing.
Does not cover: any server that the machine may run; none is touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROLE, PASSWORD = "memguard", "open/sesame?"
# As it stands in a URL.
QUOTED_PASSWORD = "open%2Fsesame%3F"
_START_S = 60.0


class PostgresMissing(Exception):
    """There is no PostgreSQL server on this machine."""


@dataclass(frozen=True)
class Postgres:
    """A server that runs."""

    directory: Path
    programs: Path
    user: str | None

    def url(self, database: str, role: str = ROLE, password: str = QUOTED_PASSWORD) -> str:
        """What a user would write."""
        return f"postgresql://{role}:{password}@/{database}?host={self.directory}"

    def make_database(self, name: str) -> str:
        """A new, empty database of the role; its URL."""
        self.sql("postgres", f'CREATE DATABASE "{name}" OWNER {ROLE}')
        return self.url(name)

    def sql(self, database: str, statement: str) -> str:
        """What the server answers its own administrator."""
        words = ["psql", "-h", str(self.directory), "-d", database, "-U", "postgres", "-Atqc", statement]
        return self._run(*words)

    def _run(self, *words: str) -> str:
        program = str(self.programs / words[0])
        done = subprocess.run(
            [program, *words[1:]], user=self.user, cwd="/", env=_environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


def find_programs() -> Path:
    """Where the newest server's programs are. Raises PostgresMissing."""
    # Debian's packages lie side by side and not in PATH.
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    if debian:
        return debian[-1].parent
    if found:
        return Path(found).resolve().parent
    raise PostgresMissing("PostgreSQL's initdb is not here: it is in Debian's package postgresql")


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server of its own; gone with all its files at the end. Raises PostgresMissing."""
    programs = find_programs()
    # PostgreSQL refuses to run as root.
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            raise PostgresMissing("PostgreSQL does not run as root, and there is no user postgres") from None
    # Not in pytest's directory, which another user may not enter; and a socket's path is short.
    directory = Path(tempfile.mkdtemp(prefix="memguard-pg-"))
    try:
        data = directory / "data"
        if user:
            shutil.chown(directory, user)
        server = Postgres(directory, programs, user)
        server._run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        # The administrator comes in as such; the role needs its password, as it does on a real server.
        (data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n", encoding="utf-8")
        options = ["-k", str(directory), "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        # It ends with this process, however that ends; SIGQUIT is its immediate shutdown.
        words = ["setpriv", "--pdeathsig", "QUIT", str(programs / "postgres"), "-D", str(data), *options]
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(words, user=user, cwd="/", env=_environment(), stdout=log, stderr=log)
        try:
            _wait_until_ready(server, process)
            server.sql("postgres", f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(_START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses whoever connects: nobody listens there, and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts and says nothing, as a server that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


def _wait_until_ready(server: Postgres, process: subprocess.Popen[bytes]) -> None:
    due_s = time.monotonic() + _START_S
    words = [str(server.programs / "pg_isready"), "-q", "-h", str(server.directory)]
    while subprocess.run(words, env=_environment()).returncode != 0:
        if process.poll() is not None or time.monotonic() > due_s:
            raise AssertionError((server.directory / "log").read_text(encoding="utf-8", errors="replace"))
        time.sleep(0.1)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
