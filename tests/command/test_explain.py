# SPDX-License-Identifier: MIT
"""`memguard explain` over logs, build directories, what memguard recorded, a real build, and what it must refuse."""

from __future__ import annotations

import fcntl
import gzip
import json
import lzma
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memguard.channels.state import StateFile
from testbed import build_logs, builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST
from testbed.command import COMMAND, environment
from testbed.container import NoContainer, container

META_MEMGUARD = Path(__file__).resolve().parents[2] / "meta-memguard"
LOGS = Path(__file__).parents[1] / "fixtures" / "failure-logs"
KILLED = "| g++: fatal error: Killed signal terminated program cc1plus\n"
GIB = 1 << 30


def explain(*words: str | Path, cwd: Path = LOGS, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a clean environment."""
    return subprocess.run(
        [*COMMAND, "explain", *map(str, words)],
        cwd=cwd,
        env=environment(LC_ALL="C.UTF-8", **env),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def tell(*words: str | Path, **more: Any) -> list[dict[str, Any]]:
    """What --json prints."""
    done = explain("--json", *words, **more)
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def write(path: Path, text: str, ended_s: float | None = None) -> Path:
    """A file with its directories, last written at that time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if ended_s is not None:
        os.utime(path, (ended_s, ended_s))
    return path


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build directory."""
    write(tmp_path / "conf" / "local.conf", 'MACHINE = "qemux86-64"\n')
    (tmp_path / "tmp" / "work").mkdir(parents=True)
    return tmp_path


def test_each_input_has_its_object_in_order() -> None:
    """--json prints a list, with the promised keys, in the order of the inputs."""
    names = ["neg01-qa-buildpaths.log", "pos01-ld-signal9-nodejs-dunfell.log", "neg07-ld-signal11.log"]
    told = tell(*names)
    assert [(each["file"], each["verdict"]) for each in told] == list(zip(names, ("other", "memory", "unclear")))
    assert told[1]["program"] == "ld"
    assert told[1]["line"] == 1
    assert told[1]["evidence"] == "collect2: fatal error: ld terminated with signal 9 [Killed]"
    assert (told[1]["recipe"], told[1]["task"]) == ("nodejs", "do_compile")
    assert set(told[1]["advice"]) == {"bitbake", "kubernetes"}
    assert told[0]["program"] is None


def test_people_read_who_what_and_what_to_do() -> None:
    """The text names verdict, task, program, evidence line and one sentence each for BitBake and Kubernetes."""
    text = explain("pos01-ld-signal9-nodejs-dunfell.log").stdout.decode()
    for word in ("memory: ", "nodejs do_compile", "ld", "line 1", "BitBake: ", "Kubernetes: ", "-j 2"):
        assert word in text


def test_packed_logs_and_standard_input_are_read(tmp_path: Path) -> None:
    """.gz, .xz, - and a process substitution."""
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(KILLED.encode()))
    (tmp_path / "b.log.xz").write_bytes(lzma.compress(b"[1/9] c++ a.o\n") + bytes(8) + lzma.compress(KILLED.encode()))
    told = tell(tmp_path / "a.log.gz", tmp_path / "b.log.xz", "-", stdin=KILLED.encode())
    assert [each["program"] for each in told] == ["cc1plus"] * 3
    shell = f"exec {shlex.join(COMMAND)} explain --json <(printf '{KILLED.strip()}')"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)[0]["verdict"] == "memory"


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "binary", "fifo", "device", "directory", "cut", "spoilt-gz", "spoilt-xz", "huge-xz"]
)
def test_what_is_no_log_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """Each bad input is named in one sentence with a good example, the others are told, and the status is 2."""
    bad = tmp_path / "bad"
    if kind == "empty":
        bad.touch()
    elif kind == "binary":
        bad.write_bytes(bytes(range(256)) * 20)
    elif kind == "fifo":
        os.mkfifo(bad)
    elif kind == "directory":
        bad.mkdir()
    elif kind == "cut":
        bad.write_bytes(gzip.compress(KILLED.encode() * 1000)[:40])
    elif kind.startswith("spoilt"):
        packed = (gzip if kind.endswith("gz") else lzma).compress(os.urandom(3000) + KILLED.encode() * 1000)
        bad.write_bytes(packed[:1000] + b"\xff" * 1000 + packed[2000:])
    elif kind == "huge-xz":  # a few bytes whose header asks for 1 GiB of memory
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": GIB}]
        bad.write_bytes(lzma.compress(KILLED.encode(), filters=filters))
    elif kind == "device":
        bad = Path("/dev/zero")
    done = explain("--json", LOGS / "neg11-command-not-found.log", bad, LOGS / "pos27-mozbuild-llvm-out-of-memory.log")
    assert done.returncode == 2
    assert [each["verdict"] for each in json.loads(done.stdout)] == ["other", "memory"]
    (sentence,) = done.stderr.decode().splitlines()
    assert sentence.startswith(f"memguard: {bad} ")
    assert "log.do_compile" in sentence


def test_a_name_that_moves_terminals_is_defused(tmp_path: Path) -> None:
    """Neither a file's name nor its content reaches the terminal as a command."""
    log = write(tmp_path / "a\x1b[2Jb.log", "x\x1b]0;owned\x07: fatal error: Killed\x1b[2J\nKilled\n")
    done = explain(log, tmp_path / "\x1b[2J")
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.returncode == 2


def test_a_build_directory_tells_of_the_tasks_that_failed(build: Path) -> None:
    """The newest console names the logs of failed tasks; a path of a container is found here; memory comes first."""
    work = build / "tmp" / "work" / "core2-64-poky-linux"
    write(work / "zlib" / "1.3" / "temp" / "log.do_compile.7", "x.c:1:1: error: expected ';'\n")
    write(work / "llvm" / "18.1" / "temp" / "log.do_compile.8", KILLED)
    names = [f"/builds/ci/build/tmp/work/core2-64-poky-linux/{log}" for log in ("zlib/1.3/temp/log.do_compile.7",)]
    names.append("/builds/ci/build/tmp/work/core2-64-poky-linux/llvm/18.1/temp/log.do_compile.8")
    console = "".join(f"ERROR: Logfile of failure stored in: {name}\n" for name in names)
    write(build / "tmp" / "log" / "cooker" / "qemux86-64" / "20240101.log", "ERROR: old\n", ended_s=1_700_000_000)
    write(build / "tmp" / "log" / "cooker" / "qemux86-64" / "20240102.log", console)
    (told,) = tell(build)
    assert (told["verdict"], told["recipe"], told["task"]) == ("memory", "llvm", "do_compile")
    assert [(other["verdict"], other["recipe"]) for other in told["others"]] == [("other", "zlib")]
    assert tell(cwd=build) == tell("--", ".", cwd=build) or tell(cwd=build)[0]["recipe"] == "llvm"
    assert tell(cwd=LOGS, BUILDDIR=str(build))[0]["recipe"] == "llvm"


def test_without_a_console_logs_without_an_end_are_told(build: Path) -> None:
    """A task log that lacks its last line is that of a task that failed."""
    temp = build / "tmp" / "work" / "a" / "llvm" / "18.1" / "temp"
    write(temp / "log.do_configure.7", "DEBUG: Shell function do_configure finished\n")
    write(temp / "log.do_compile.8", f"DEBUG: Executing shell function do_compile\n{KILLED}")
    (told,) = tell(build)
    assert told["file"].endswith("log.do_compile.8")
    assert "others" not in told


def test_memory_at_that_moment_is_told(build: Path) -> None:
    """Used, limit, this task's share and the heaviest other one are those of the reading before the log ended."""
    ended_s = time.time() - 3600
    log = write(build / "tmp/work/a/llvm/18/temp/log.do_compile.8", KILLED, ended_s)
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(ended_s - 100))
    readings = [
        {"event": "reading", "time": ended_s - 9, "used_bytes": GIB, "limit_bytes": 8 * GIB, "tasks": []},
        {
            "event": "reading",
            "time": ended_s - 1,
            "used_bytes": 7 * GIB,
            "limit_bytes": 8 * GIB,
            "tasks": [["llvm", "do_compile", 2 * GIB, 4, 0, None], ["webkit", "do_compile", 4 * GIB, 4, 0, 3], "?"],
        },
        {"event": "reading", "time": ended_s + 1, "used_bytes": 3 * GIB, "limit_bytes": 8 * GIB, "tasks": []},
    ]
    write(build / "memguard" / "readings" / f"{stamp}.jsonl", "\n".join(map(json.dumps, readings)) + "\n{broken\n")
    memory = tell(log)[0]["memory"]
    assert (memory["used_bytes"], memory["limit_bytes"], memory["task_bytes"]) == (7 * GIB, 8 * GIB, 2 * GIB)
    assert memory["heaviest"] == "webkit do_compile"
    text = explain(log).stdout.decode()
    assert "7.0 GiB of 8.0 GiB (87 %) used at" in text
    assert "2.0 GiB by this task" in text


@pytest.mark.parametrize(("used_gib", "verdict"), [(7.5, "memory"), (6, "unclear"), (1, "unclear")])
def test_a_console_that_stops_is_weighed_by_memory(build: Path, used_gib: float, verdict: str) -> None:
    """state.json of a killed build says whether memory was full when its console stopped."""
    console = "NOTE: Executing Tasks\nNOTE: recipe llvm-18-r0: task do_compile: Started\n"
    log = write(build / "tmp" / "log" / "cooker" / "m" / "1.log", console)
    state = build_logs.make_state(now_s=log.stat().st_mtime, used_bytes=int(used_gib * GIB), limit_bytes=8 * GIB)
    (build / "memguard").mkdir()
    StateFile(build / "memguard").publish(state)
    (told,) = tell(build)
    assert (told["verdict"], told["memory"]["limit_bytes"]) == (verdict, 8 * GIB)


def test_a_build_that_still_runs_is_no_failure(build: Path) -> None:
    """A console that stops while BitBake holds its lock is that of a running build."""
    write(build / "tmp" / "log" / "cooker" / "m" / "1.log", "NOTE: recipe llvm-18-r0: task do_compile: Started\n")
    with open(write(build / "bitbake.lock", ""), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (told,) = tell(build)
    assert (told["verdict"], told["reason"], told["advice"]) == ("running", "the build is still running", {})
    assert "mid-course" in tell(build)[0]["reason"]


def test_a_build_killed_after_its_last_line_is_weighed_by_its_last_reading(build: Path) -> None:
    """What counts where a console just stops is memory at the last reading, also long after the console's last line."""
    ended_s = time.time() - 3600
    console = "NOTE: Executing Tasks\nNOTE: recipe llvm-18-r0: task do_compile: Started\n"
    log = write(build / "tmp" / "log" / "cooker" / "m" / "1.log", console, ended_s)
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(ended_s - 100))
    readings = [
        {"event": "reading", "time": ended_s + after_s, "used_bytes": used, "limit_bytes": 20 * GIB, "tasks": []}
        for after_s, used in ((-1, 2 * GIB), (600, 19 * GIB))
    ]
    write(build / "memguard" / "readings" / f"{stamp}.jsonl", "\n".join(map(json.dumps, readings)) + "\n")
    (told,) = tell(log)
    assert (told["verdict"], told["memory"]["used_bytes"]) == ("memory", 19 * GIB)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"time": "x", "used_bytes": true}', "\x00\xff", "{" * 100_000])
def test_records_of_any_kind_do_no_harm(build: Path, content: str) -> None:
    """Broken, foreign or newer records are passed over."""
    log = write(build / "tmp/work/a/llvm/18/temp/log.do_compile.8", KILLED)
    for name in ("state.json", "readings/20200101000000.jsonl", "events/20200101000000.jsonl"):
        write(build / "memguard" / name, content)
    assert tell(log)[0]["memory"] is None


@pytest.mark.memcg
def test_a_real_build_whose_task_the_kernel_killed(bitbake: BitBake, tmp_path: Path) -> None:
    """BitBake in a real memory cgroup: a task is killed for memory, another fails for its own reason; both are told."""
    conf = """\
INHERIT += "memguard"
MEMGUARD_RETRIES = "0"
TINY_COMMAND:pn-tiny-01 = "${TOPDIR}/eat"
TINY_COMMAND:pn-tiny-02 = "echo 'x.c:1:1: error: expected x'; false"
"""
    builddir.make(tmp_path, [META_TEST, META_MEMGUARD], conf)
    eat = write(tmp_path / "eat", f"#!/bin/bash\n{sys.executable} -c 'x = b\"x\" * (3 << 30)'\nexit 1\n")
    eat.chmod(0o755)
    try:
        with container(2 * GIB, "memguard-explain") as box:
            result = builddir.run(bitbake, tmp_path, "-k", "tiny-01", "tiny-02", prefix=box.prefix)
            assert box.oom_kills == 1
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 1
    (told,) = tell(tmp_path)
    assert (told["verdict"], told["recipe"], told["task"]) == ("memory", "tiny-01", "do_compile")
    assert told["program"].startswith("python")
    assert told["memory"]["limit_bytes"] == 2 * GIB
    # As of the last look before: it took gigabytes within less than the time between two.
    assert 0 < told["memory"]["used_bytes"] <= 2 * GIB
    assert [(other["verdict"], other["recipe"]) for other in told["others"]] == [("other", "tiny-02")]
    (console,) = tell("-", stdin=result.output.encode())
    assert console["verdict"] == "memory"  # memguard's own count


GOOD = "NOTE: Tasks Summary: Attempted 4012 tasks of which 12 didn't need to be rerun and all succeeded.\n"


def test_a_build_that_ended_well_is_called_that(build: Path) -> None:
    """What a good build prints beside is no failure; a kill that a retry made good is still told."""
    log = write(build / "tmp" / "log" / "cooker" / "m" / "1.log", f"sh: 1: foo: not found\n{GOOD}")
    (told,) = tell(build)
    assert (told["verdict"], told["reason"], told["advice"]) == ("good", "the build ended well", {})
    write(log, KILLED + GOOD)
    (told,) = tell(build)
    assert (told["verdict"], told["advice"]) == ("memory", {})
    assert told["reason"].endswith("; the build ended well all the same")
    write(log, f"{GOOD}ERROR: scp: No space left on device\n")
    assert tell(build)[0]["verdict"] == "other"


@pytest.mark.parametrize(
    ("mode", "advised", "not_advised"),
    [
        (None, "INHERIT", "MEMGUARD_MODE"),
        ("observe", 'MEMGUARD_MODE = "enforce"', "INHERIT"),
        ("enforce", "MEMGUARD_RESERVE", "INHERIT"),
    ],
)
def test_nothing_is_advised_that_is_so_already(build: Path, mode: str | None, advised: str, not_advised: str) -> None:
    """Advice knows whether memguard was on in that build, and what it might do."""
    conf = 'MACHINE = "qemux86-64"\n' + (f'INHERIT += "memguard"\nMEMGUARD_MODE = "{mode}"\n' if mode else "")
    write(build / "conf" / "local.conf", conf)
    log = write(build / "tmp/work/a/llvm/18/temp/log.do_compile.8", KILLED)
    sentence = tell(log)[0]["advice"]["bitbake"]
    assert advised in sentence
    assert not_advised not in sentence
    assert "PARALLEL_MAKE:pn-llvm" in sentence


@pytest.mark.parametrize(
    ("line", "topic", "words"),
    [
        ("java.lang.OutOfMemoryError: Java heap space", "java", "-Xmx"),
        (
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "javascript",
            "NODE_OPTIONS",
        ),
        ("The node was low on resource: memory.", "kubernetes", "requests.memory"),
        ("systemd-oomd[8]: Killed /user.slice/a.scope due to memory pressure for /user.slice", "systemd", "MemoryMax"),
        ("slurmstepd: error: Exceeded job memory limit at some point.", "batch", "--mem"),
        ("bash: fork: retry: Resource temporarily unavailable", "limit", "pids.max"),
        ("mmap: Cannot allocate memory (vm.max_map_count)", "limit", "vm.max_map_count"),
        ("qemu-arm: Unable to reserve 0xf7000000 bytes of virtual address space", "limit", "ulimit -v"),
    ],
)
def test_each_limit_has_advice_of_its_own(line: str, topic: str, words: str) -> None:
    """Whose limit was reached decides what helps."""
    (told,) = tell("-", stdin=line.encode())
    assert words in told["advice"][topic], told


def test_the_heaviest_task_is_named_where_the_log_names_none(build: Path) -> None:
    """A build killed as a whole, minutes after its last line: the last moments say how full memory was, and of what."""
    ended_s = time.time() - 3600
    console = "NOTE: recipe a-1-r0: task do_compile: Started\nNOTE: recipe llvm-18-r0: task do_compile: Started\n"
    write(build / "tmp" / "log" / "cooker" / "m" / "1.log", console, ended_s)
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(ended_s - 100))
    readings = [
        {"event": "reading", "time": ended_s + after_s, "used_bytes": used, "limit_bytes": 2 * GIB, "tasks": rows}
        for after_s, used, rows in (
            (-1, GIB // 5, []),
            (600, 2 * GIB, [["llvm", "do_compile", GIB, 4, 0, None], ["a", "do_compile", 5, 4, 0, None]]),
            (602, GIB // 5, []),
        )
    ]
    write(build / "memguard" / "readings" / f"{stamp}.jsonl", "\n".join(map(json.dumps, readings)) + "\n")
    (told,) = tell(build)
    assert (told["verdict"], told["memory"]["used_bytes"]) == ("memory", 2 * GIB)
    assert "PARALLEL_MAKE:pn-llvm" in told["advice"]["bitbake"]
