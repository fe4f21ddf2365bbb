# SPDX-License-Identifier: MIT
"""`memguard export`: what a scrape gets while a build runs, before, after, and when its files are none."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from memguard.channels.state import Counts, as_object
from memguard.record.metrics import METRICS
from memguard_cli.builds.counts import BuildCounts
from memguard_cli.commands.export import StateSource, parse_listen
from testbed.command import COMMAND, environment, memguard, refused
from testbed.scraped import parsed
from testbed.states import STATE

ENDING = {metric.name for metric in METRICS if metric.is_ending}


@dataclass
class Exporter:
    """A command that serves, and the build directory it looks at."""

    build: Path
    port: int
    process: subprocess.Popen[str]

    def ask(self, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
        """Status and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def scrape(self) -> dict[str, dict[str, float]]:
        """The numbers of one scrape."""
        status, text = self.ask()
        assert status == 200
        return parsed(text)


@contextlib.contextmanager
def exporting(build: Path) -> Iterator[Exporter]:
    """Run the command, as one types it, on a port of the system's choice."""
    command = [*COMMAND, "export", "--listen", "127.0.0.1:0", str(build)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.communicate()
        yield Exporter(build, int(line.rpartition(":")[2].partition("/")[0]), process)
    finally:
        process.kill()
        process.communicate()


def put_state(build: Path, age_s: float = 0.0, **changes: Any) -> Path:
    """Write a state as the sentinel does."""
    path = build / "memguard" / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_object(replace(STATE, time=time.time() - age_s, **changes))), encoding="utf-8")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def put_log(build: Path, kind: str, *events: dict[str, Any], stamp: str = "20261124031247") -> Path:
    """Add events to a log as a build does, most of them of one task."""
    path = build / "memguard" / kind / f"{stamp}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        whole = {"time": 1764000000.0, "recipe": "a", "task": "do_compile"}
        file.writelines(json.dumps({**whole, **event}) + "\n" for event in events)
    return path


def test_a_build_from_before_its_directory_to_after_its_end(tmp_path: Path) -> None:
    """One sidecar sees all of it: no directory, a running build, its end with its counts, and ends itself when told."""
    build = tmp_path / "build"
    with exporting(build) as exporter:
        told = exporter.scrape()
        assert told["memguard_build_running"] == {"": 0}
        assert told["memguard_compilers_killed_total"] == {"": 0}
        assert exporter.ask("/healthz")[0] == 503
        put_log(build, "events", {"event": "build_start"})
        path = put_state(build)
        told = exporter.scrape()
        assert set(told) == {metric.name for metric in METRICS}
        assert told["memguard_tasks"] == {"running": 1, "stopped": 1, "retrying": 0, "held": 1}
        assert exporter.ask("/healthz") == (200, "ok\n")
        path.unlink()
        put_log(build, "events", {"event": "build_end", "granted": 9, "held": 4, "shrunk": 3, "oom_kills": 1})
        put_log(build, "readings", {"event": "kill"}, {"event": "task", "outcome": "memory-kill"})
        told = exporter.scrape()
        assert set(told) == ENDING - {"memguard_state_timestamp_seconds"}
        assert (told["memguard_build_running"], told["memguard_build_killed"]) == ({"": 0}, {"": 0})
        assert told["memguard_tasks_granted_total"] == {"": 9}
        assert told["memguard_tasks_lost_total"] == {"": 1}
        assert told["memguard_compilers_killed_total"] == {"": 1}
        assert exporter.ask("/")[0] == 404
        assert exporter.ask(method="POST")[0] == 405
        exporter.process.send_signal(signal.SIGTERM)
        _, errors = exporter.process.communicate(timeout=30)
        assert exporter.process.returncode == 0
        assert errors.splitlines() == [
            f"memguard: {build}/memguard is not there yet: no build has run with it",
            "memguard: the state can be read again",
        ]


def test_promtool_accepts_a_scrape(tmp_path: Path, promtool: str) -> None:
    """Prometheus' own linter finds nothing in what is served while a build runs."""
    put_state(tmp_path)
    with exporting(tmp_path) as exporter:
        _, text = exporter.ask()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_who_connects_and_says_nothing_delays_nobody(tmp_path: Path) -> None:
    """A scrape is answered while another connection is silent, and Ctrl-C ends the command with 130."""
    with exporting(tmp_path) as exporter, socket.create_connection(("127.0.0.1", exporter.port)):
        assert exporter.scrape()["memguard_build_running"] == {"": 0}
        exporter.process.send_signal(signal.SIGINT)
        _, errors = exporter.process.communicate(timeout=30)
        assert (exporter.process.returncode, "Traceback" in errors) == (130, False)


def look(build: Path) -> tuple[dict[str, float], str]:
    """The numbers without labels of one look, and what is wrong."""
    found = StateSource(build).look()
    return {value.metric: value.value for value in found.values if not value.label}, found.problem


def test_a_state_that_was_left_behind_is_a_killed_build(tmp_path: Path) -> None:
    """Nobody has written it for a minute, so no build runs and nothing is in use."""
    put_state(tmp_path, age_s=60)
    values, problem = look(tmp_path)
    assert (values["memguard_build_running"], values["memguard_build_killed"], problem) == (0, 1, "")
    assert "memguard_used_bytes" not in values


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"version": 2, "tasks": {', "is half-written or damaged"),
        ("[" * 100_000, "is half-written or damaged"),
        ("[]", "is half-written or damaged"),
        ('{"version": true}', "is half-written or damaged"),
        ('{"version": 2, "time": 5.0}', "is half-written or damaged"),
        ('{"version": 3, "used_bytes": 5}', "is of version 3, and this memguard reads version 2"),
        ('{"version": 1}', "is of version 1, and this memguard reads version 2"),
    ],
)
def test_what_is_no_state_is_told_apart(tmp_path: Path, content: str, words: str) -> None:
    """Cut off, of another kind, or newer: a sentence for each, and a build that runs all the same."""
    put_state(tmp_path).write_text(content, encoding="utf-8")
    values, problem = look(tmp_path)
    assert words in problem
    assert values == {"memguard_build_running": 1}


def test_a_fifo_in_place_of_a_file_blocks_nobody(tmp_path: Path) -> None:
    """What is not a plain file is refused, not waited for."""
    (tmp_path / "memguard" / "events").mkdir(parents=True)
    os.mkfifo(tmp_path / "memguard" / "state.json")
    os.mkfifo(tmp_path / "memguard" / "events" / "1.jsonl")
    _, problem = look(tmp_path)
    assert "state.json cannot be read" in problem


def test_logs_are_read_on_from_where_they_ended(tmp_path: Path) -> None:
    """A line that is only half written counts when it is whole; a new build counts from nothing."""
    counts = BuildCounts(tmp_path / "memguard")
    log = put_log(tmp_path, "events", {"event": "hold"}, {"event": "grant", "jobs": 1, "wanted_jobs": 4})
    put_log(tmp_path, "readings", {"event": "stop"})
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"event": "gra')
    first = counts.look()
    assert (first.held, first.granted, first.shrunk, first.stopped) == (1, 1, 1, 1)
    with open(log, "a", encoding="utf-8") as file:
        file.write('nt", "time": 1, "recipe": "b", "task": "do_compile", "jobs": 4, "wanted_jobs": 4}\nno JSON\n[1]\n')
    assert counts.look().granted == 2
    os.utime(log, (1, 1))
    put_log(tmp_path, "events", {"event": "build_end", "granted": 0, "oom_kills": None}, stamp="20261124031300")
    second = counts.look()
    assert (second.granted, second.held, second.stopped) == (0, 0, 0)
    assert second.oom_kills is None


def test_a_counter_the_kernel_does_not_tell_stays_away(tmp_path: Path) -> None:
    """The state's counts come before those of the logs; what nobody knows at the end is missing."""
    put_log(tmp_path, "readings", {"event": "task", "outcome": "memory-kill"}, {"event": "kill"})
    put_log(tmp_path, "events", {"event": "build_start"}, {"event": "build_end", "oom_kills": None})
    state = put_state(tmp_path, counts=Counts(killed=5))
    values, _ = look(tmp_path)
    assert (values["memguard_compilers_killed_total"], values["memguard_tasks_lost_total"]) == (5, 0)
    state.unlink()
    values, _ = look(tmp_path)
    assert (values["memguard_compilers_killed_total"], values["memguard_tasks_lost_total"]) == (1, 1)
    assert "memguard_oom_kills_total" not in values


def test_memguard_dir_of_the_configuration_is_found(tmp_path: Path) -> None:
    """A configuration that comes later, and says where MEMGUARD_DIR is, is believed; the directory itself will do."""
    source = StateSource(tmp_path)
    assert f"{tmp_path}/memguard is not there yet" in source.look().problem
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "local.conf").write_text('MEMGUARD_DIR = "${TOPDIR}/elsewhere"\n', encoding="utf-8")
    assert f"{tmp_path}/elsewhere is not there yet" in source.look().problem
    put_state(tmp_path).parent.rename(tmp_path / "elsewhere")
    for found in (source.look(), StateSource(tmp_path / "elsewhere").look()):
        assert found.problem == ""
        assert found.values[0].value == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9723", ("127.0.0.1", 9723)),
        (":9723", ("", 9723)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    """HOST:PORT, every address, and IPv6 in brackets."""
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["9723", "host:", "host:70000", "::1:9723", "a b:1", "host:x", ""])
def test_a_wrong_address_is_one_sentence(tmp_path: Path, text: str) -> None:
    """It names the address and shows a good one."""
    assert "127.0.0.1:9723" in refused(memguard("export", "--listen", text, cwd=tmp_path))


def test_a_port_in_use_and_an_unknown_host_are_one_sentence(tmp_path: Path) -> None:
    """Neither ends in a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "is in use" in refused(memguard("export", "--listen", f"127.0.0.1:{port}", cwd=tmp_path))
    assert "cannot be served" in refused(memguard("export", "--listen", "host.invalid:1", cwd=tmp_path))


def test_a_file_is_no_build_directory(tmp_path: Path) -> None:
    """It is told apart from a directory that is not there yet."""
    (tmp_path / "file").touch()
    assert "is not a directory" in refused(memguard("export", "file", cwd=tmp_path))


def test_help_shows_an_example() -> None:
    """Who asks for help sees a line to type."""
    done = subprocess.run([*COMMAND, "export", "--help"], env=environment(), capture_output=True, text=True)
    assert "memguard export --listen 127.0.0.1:9723 /build" in done.stdout
