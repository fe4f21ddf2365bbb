# SPDX-License-Identifier: MIT
"""`memguard run` as one types it: real make, real processes, a real memory cgroup."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from memguard.predict.remembered_lives import Lives
from memguard.record.history.store import History
from memguard.units import MIB
from testbed import compilers, memory

ROOT = Path(__file__).resolve().parents[2]
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


class Done(NamedTuple):
    """How a run has ended, and what is left of it."""

    returncode: int
    stdout: str
    stderr: str
    traces: list[Path]


def run(*arguments: str, cwd: Path, text: str = "") -> Done:
    """Run it to its end."""
    return finish(words(*arguments), cwd, text)


def finish(command: list[str], cwd: Path, text: str = "") -> Done:
    """Run a command that becomes memguard run, to its end."""
    with subprocess.Popen(command, cwd=cwd, env=environment(cwd), stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        out, err = process.communicate(text, timeout=300)
    return Done(process.returncode, out, err, traces(process.pid, cwd))


def environment(cwd: Path) -> dict[str, str]:
    """What a run finds in its environment; its temporary directories lie where it works, apart from those of others."""
    return {**ENVIRONMENT, "TMPDIR": str(cwd)}


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds, for as long as a busy machine may take."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def traces(pid: int, cwd: Path) -> list[Path]:
    """Cgroups and temporary directories of one run."""
    return [*Path("/sys/fs/cgroup").glob(f"**/memguard-run-{pid}"), *cwd.glob("memguard-run-*")]


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
        (("--history", "no/where.db", "--", "true"), 2, "--history build.db"),
        (("--limit", "512M", "--reserve", "most", "--", "true"), 2, "--reserve 10%"),
        (("--limit", "512M", "--history", __file__, "--", "true"), 2, "test_run.py"),
        (("--", "no-such-command"), 127, "no-such-command"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], status: int, word: str) -> None:
    """A wrong argument is named with a good example; a command that is not there has a shell's status; none stays."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr
    assert done.stdout == ""
    assert done.traces == []


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
    assert done.traces == []


def test_what_jobs_took_is_remembered_where_that_is_wished(tmp_path: Path) -> None:
    """A run that ended well leaves the lives of its jobs in the file, one that failed does not."""
    line = f"for unit in one two; do {compilers.build(tmp_path)}/cc1plus -o $unit -p 0.3:40,0.9:40; done"
    file = tmp_path / "history.db"
    done = run("--history", str(file), "--", "sh", "-c", f"{line}; exit 3", cwd=tmp_path)
    assert (done.returncode, file.exists()) == (3, False)
    for _ in range(2):
        done = run("--history", str(file), "--", "sh", "-c", line, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with contextlib.closing(History(file, warn=pytest.fail, is_read_only=True)) as history:
            kept = Lives(history.lives(tmp_path.name, f"sh -c {line}"))
        assert len(kept) == 2
        assert all(40 * MIB <= life.peak_bytes < 60 * MIB for life in kept.sample(2))


@pytest.mark.memcg
@pytest.mark.skipif(os.geteuid() != 0, reason="makes memory cgroups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_from_outside_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, an end by request and kill -9 leave no process, no cgroup, no pool and no temporary directory."""
    script = "sleep 600 & echo $! > pid; wait"
    process = subprocess.Popen(
        words("--limit", "256M", "--", "sh", "-c", script), cwd=tmp_path, env=environment(tmp_path), stderr=-3
    )
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    status = process.wait(60)
    assert status == (-number if number is signal.SIGKILL else 128 + number)
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    eventually(lambda: traces(process.pid, tmp_path) == [])


@pytest.mark.parametrize(
    ("name", "text", "mode", "status"),
    [("plain", "hello", 0o644, 126), ("bad", "\x7fELF", 0o755, 126), ("script", "#!/nowhere/sh\n", 0o755, 126)],
)
def test_what_cannot_be_started_is_one_sentence(tmp_path: Path, name: str, text: str, mode: int, status: int) -> None:
    """A file that is no program has a shell's status for it, and leaves nothing."""
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(mode)
    done = run("--", f"./{name}", cwd=tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert done.traces == []


def test_the_pool_is_in_the_words_of_each_tool(tmp_path: Path) -> None:
    """make 4.3 is told of two descriptors that it inherits, cargo and newer makes of the FIFO; both are there."""
    script = 'echo "$MAKEFLAGS"; echo "$CARGO_MAKEFLAGS"; ls /proc/self/fd | tr "\n" " "'
    done = run("--jobs", "4", "--", "sh", "-c", script, cwd=tmp_path)
    make, cargo, descriptors = done.stdout.splitlines()
    assert cargo.startswith(" -j4 --jobserver-auth=fifo:")
    if "fifo:" not in make:
        sides = make.partition("--jobserver-auth=")[2].split(",")
        assert set(sides) <= set(descriptors.split())


def test_an_old_make_runs_as_many_jobs_as_it_is_allowed(tmp_path: Path) -> None:
    """Two real makes at once share one pool: of 64 jobs no more than four and one for each make run at a time."""
    rule = "\t@echo + >> log; sleep 0.05; echo - >> log\n"
    units = " ".join(f"u{number}" for number in range(32))
    (tmp_path / "Makefile").write_text(f".PHONY: all {units}\nall: {units}\n{units}:\n{rule}")
    done = run("--jobs", "4", "--", "sh", "-c", "make -s & make -s & wait", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    at_once = most = 0
    for line in (tmp_path / "log").read_text().split():
        at_once += 1 if line == "+" else -1
        most = max(most, at_once)
    assert (tmp_path / "log").read_text().count("+") == 64
    assert 2 < most <= 3 + 2


@pytest.mark.memcg
@pytest.mark.skipif(os.geteuid() != 0, reason="makes memory cgroups")
def test_an_enforced_limit_is_enforced(tmp_path: Path) -> None:
    """What is no compiler and takes too much is killed by the kernel in the cgroup, which is counted, and gone then."""
    program = memory.build(tmp_path)
    done = run("--limit", "64M", "--json", "run.json", "--", str(program), "anon", "200", cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGKILL
    told = json.loads((tmp_path / "run.json").read_text())
    assert (told["oom_kills"], told["limit_bytes"], told["exit_status"]) == (1, 64 * MIB, 137)
    assert done.traces == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts cgroups as a pod has them")
def test_where_no_cgroup_can_be_made_the_limit_is_watched(tmp_path: Path) -> None:
    """In a pod, whose cgroups are read-only, that is told in one line, and the command runs with the limit as plan."""
    top = "/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup"
    pod = ["unshare", "-m", "sh", "-c", f'mount -o remount,bind,ro {top} && exec "$@"', "sh"]
    if subprocess.run([*pod, "true"], check=False, capture_output=True).returncode:
        pytest.skip(f"{top} cannot be mounted read-only here")
    inside = words("--limit", "300M", "--json", "run.json", "--", "sh", "-c", "exit 3")
    done = subprocess.run([*pod, *inside], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "watched but not enforced" in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 4
    assert json.loads((tmp_path / "run.json").read_text())["limit_bytes"] == 300 * MIB


def test_job_control_stops_and_continues_the_whole_command(tmp_path: Path) -> None:
    """Ctrl-Z and fg: what the command started stands still with it, and goes on with it."""
    script = "sleep 600 & echo $! > pid; wait"
    process = subprocess.Popen(words("--", "sh", "-c", script), cwd=tmp_path, env=ENVIRONMENT, stderr=-3)
    try:
        eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        own, started = psutil.Process(process.pid), psutil.Process(int((tmp_path / "pid").read_text()))
        process.send_signal(signal.SIGTSTP)
        eventually(lambda: {own.status(), started.status()} == {psutil.STATUS_STOPPED})
        process.send_signal(signal.SIGCONT)
        eventually(lambda: psutil.STATUS_STOPPED not in {own.status(), started.status()})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_command_in_the_background_reads_nothing_and_ends(tmp_path: Path) -> None:
    """Started with & by a shell, it runs like any other."""
    line = " ".join(["'" + word + "'" for word in words("--", "sh", "-c", "echo from behind")])
    done = subprocess.run(
        ["bash", "-ic", f"{line} & wait $!"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "from behind" in done.stdout


FAULTY = """
import sys, threading
from memguard.sense.container import Sensor
from memguard.sense.process_table import ProcessTable
from memguard.sentinel.look import Lookout
from memguard_cli.supervise import supervisor
from memguard_cli.supervise.supervisor import Janitor
calls = 0
def fail(*arguments, **named):
    global calls
    calls += 1
    if calls > int(sys.argv[2]):
        raise RuntimeError("no more")
    return before(*arguments, **named)
holder, _, name = sys.argv[1].rpartition(".")
before = getattr(eval(holder), name)
setattr(eval(holder), name, fail)
from memguard_cli.main import main
sys.exit(main(["run", *sys.argv[3:]]))
"""


@pytest.mark.parametrize(
    ("what", "passes"),
    [
        ("Sensor.read", 0),
        ("Sensor.read", 3),
        ("Sensor.oom_kills", 0),
        ("Sensor.oom_kills", 1),
        ("ProcessTable.scan", 1),
        ("Lookout.look", 1),
        ("Lookout.wait", 0),
        ("Lookout.close", 0),
        ("Janitor.__init__", 0),
        ("Janitor.close", 0),
        ("supervisor.make_pool", 0),
        ("supervisor.tempfile.mkdtemp", 0),
        ("supervisor.find_process", 0),
        ("supervisor.Reflex", 0),
    ],
)
def test_a_fault_of_its_own_leaves_the_command_alone(tmp_path: Path, what: str, passes: int) -> None:
    """Whatever fails in memguard is one sentence; the command goes on to its end, which is the answer.

    It does not end before what fails while it runs has failed.
    """
    comes_last = what.endswith(".close") or (what, passes) == ("Sensor.oom_kills", 1)
    said_until = "" if comes_last else "until grep -q unguarded said; do sleep 0.05; done; "
    command = [sys.executable, "-c", FAULTY, what, str(passes), "--jobs", "2", "--", "timeout", "60", "sh", "-c"]
    command.append(f"{said_until}cat; exit 7")
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdin=-1, stdout=-1, stderr=said)
        out, _ = process.communicate(b"read", timeout=120)
    lines = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert (process.returncode, out) == (7, b"read"), lines
    assert len(lines) == 4, lines
    (sentence,) = [line for line in lines if "unguarded" in line]
    assert "no more" in sentence
    eventually(lambda: what == "Janitor.close" or traces(process.pid, tmp_path) == [])


@pytest.mark.parametrize(
    "how",
    [
        "--json /dev/full",
        "--json /proc/no.json",
        "--json /proc/self/mem",
        "--json fifo",
        "2>/dev/full",
        "2>&-",
        ">&-",
        "<&-",
        "<&- >&- 2>&-",
        "--json /dev/full 2>/dev/full",
        "--history /dev/full",
        "--limit 512M 2>/dev/full",
    ],
)
def test_nothing_that_cannot_be_written_changes_the_status(tmp_path: Path, how: str) -> None:
    """Full, closed and odd places for what memguard says: the answer is the command's exit status all the same."""
    os.mkfifo(tmp_path / "fifo")
    options, redirections = [], []
    for word in how.split():
        (redirections if word[0] in "<>2" else options).append(word)
    command = " ".join([*words(*options, "--"), "sh -c 'echo gone > file; sleep 0.3; exit 7'", *redirections])
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    if how == "--history /dev/full" and done.returncode == 2:
        return  # refused before the command was started
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "file").read_text() == "gone\n"
    assert "Traceback" not in done.stderr
