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
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROLE, PASSWORD = "memguard", "open/sesame?"
# As it stands in a URL.
QUOTED_PASSWORD = "open%2Fsesame%3F"
_START_S = "60"


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
        options = f"-k {directory} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        server._run(
            "pg_ctl", "-D", str(data), "-w", "-t", _START_S, "-l", str(directory / "log"), "-o", options, "start"
        )
        postmaster = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        try:
            server.sql("postgres", f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            try:
                server._run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
            except AssertionError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGKILL)
                raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
