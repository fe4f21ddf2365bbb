# SPDX-License-Identifier: MIT
"""`memguard run` as one types it: real make, real processes, a real memory cgroup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from memguard.units import MIB
from testbed import memory

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'meta-memguard' / 'lib'}:{ROOT / 'lib'}"}
KEYS = {
    "peak_bytes",
    "limit_bytes",
    "oom_kills",
    "stopped",
    "killed",
    "retried",
    "tokens_min",
    "tokens_max",
    "wall_s",
}


def words(*arguments: str) -> list[str]:
    """The command with these arguments."""
    return [sys.executable, "-m", "memguard_cli.main", "run", *arguments]


def run(*arguments: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        words(*arguments),
        cwd=cwd,
        env=ENVIRONMENT,
        input=text,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds, for as long as a busy machine may take."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def traces() -> list[Path]:
    """Cgroups and temporary directories of runs."""
    return [*Path("/sys/fs/cgroup").glob("**/memguard-run-*"), *Path(tempfile.gettempdir()).glob("memguard-run-*")]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_commands_end_is_passed_on(tmp_path: Path, script: str, status: int) -> None:
    """Exit status or signal, standard input and output are the command's; three lines of summary go to the error."""
    done = run("--", "sh", "-c", f"cat; {script}", cwd=tmp_path, text="read\n")
    assert (done.returncode, done.stdout) == (status, "read\n")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("memguard: ") for line in lines)
    assert f"exit status {status}" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        ((), 2, "memguard run"),
        (("--limit", "much", "--", "true"), 2, "--limit 4G"),
        (("--limit", "1K", "--", "true"), 2, "--limit 4G"),
        (("--jobs", "0", "--", "true"), 2, "--jobs"),
        (("--reserve", "most", "--", "true"), 2, "--reserve 10%"),
        (("--json", "no/where.json", "--", "true"), 2, "--json run.json"),
        (("--", "no-such-command"), 127, "no-such-command"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], status: int, word: str) -> None:
    """A wrong argument is named with a good example; a command that is not there has a shell's status."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr
    assert done.stdout == ""


@pytest.mark.memcg
@pytest.mark.skipif(os.geteuid() != 0, reason="makes memory cgroups")
def test_jobs_that_do_not_fit_at_once_all_end(tmp_path: Path) -> None:
    """Sixteen jobs under a limit for a few of them: make takes its jobs from the pool, none is killed, all are made."""
    program = memory.build(tmp_path)
    (tmp_path / "cc1plus").symlink_to(program)
    units = " ".join(f"o{number}" for number in range(16))
    one = "anon 40 sleep 300 anon 40 sleep 300"
    recipe = f"\t@./cc1plus name cc1plus {one} </dev/null\n\t@touch $@"
    (tmp_path / "Makefile").write_text(f"all: {units}\no%:\n{recipe}\n")
    done = run("--limit", "512M", "--jobs", "16", "--json", "run.json", "--", "make", "-s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run.json").read_text())
    assert told.keys() >= KEYS
    assert (told["oom_kills"], told["killed"], told["limit_bytes"]) == (0, 0, 512 * MIB)
    assert 60 * MIB < told["peak_bytes"] <= 512 * MIB
    assert 0 < told["tokens_max"] < 16
    assert len(list(tmp_path.glob("o*"))) == 16
    assert traces() == []


@pytest.mark.memcg
@pytest.mark.skipif(os.geteuid() != 0, reason="makes memory cgroups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_from_outside_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, an end by request and kill -9 leave no process, no cgroup, no pool and no temporary directory."""
    script = "sleep 600 & echo $! > pid; wait"
    process = subprocess.Popen(
        words("--limit", "256M", "--", "sh", "-c", script), cwd=tmp_path, env=ENVIRONMENT, stderr=-3
    )
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    status = process.wait(60)
    assert status == (-number if number is signal.SIGKILL else 128 + number)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    eventually(lambda: traces() == [])
