# SPDX-License-Identifier: MIT
"""What logs say of memory and of everything else: public samples and public wordings."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memguard.diagnose.console import Console, FailedEdges
from memguard.diagnose.lines import read_line, strip_prefixes
from memguard.diagnose.memory_rules import MEMORY_RULES
from memguard.diagnose.place import Places, place_of
from memguard.diagnose.prefixes import Prefixes
from memguard.diagnose.rule import Mark, Remedy, Sign, Strength
from memguard.diagnose.scan import classify, classify_stream
from memguard.diagnose.stems import candidates
from memguard.diagnose.verdict import Finding, Judge
from testbed.failures import judge, labelled_logs

LOGS = Path(__file__).parents[1] / "fixtures" / "failure-logs"
VERDICTS = {"oom": "memory", "other": "other", "ambiguous": "unclear"}
SAMPLES = list(csv.DictReader((LOGS / "INDEX.tsv").open(encoding="utf-8"), delimiter="\t"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_public_samples_are_judged_right(sample: dict[str, str]) -> None:
    """Logs out of public threads have the verdict of their label."""
    with (LOGS / sample["file"]).open("rb") as log:
        assert classify_stream(log).verdict == VERDICTS[sample["label"]]


def wordings(kind: str) -> list[Any]:
    """Parameters out of a file of short logs: the log, and the program that died, None where none is named."""
    logs = (LOGS / f"wordings-{kind}.txt").read_text(encoding="utf-8").split("=== ")[1:]
    parts = [log.partition("\n") for log in logs]
    return [
        pytest.param(text, None if head.startswith("- ") else head.split(" # ")[0], id=text[:50].strip())
        for head, _, text in parts
    ]


HARMLESS = [
    "NOTE: memguard: peak 1.2 GiB of 2.0 GiB (59 %), 0 killed by the kernel for memory",
    "WARNING: one OOM kill would take the whole container (memory.oom.group)",
    "gcc -DOUT_OF_MEMORY=137 -Werror -c oom_kill.c -o oom_kill.o",
    "  CC      mm/oom_kill.o",
    "+ echo Killed",
    "checking for virtual memory exhausted... no",
    "libtool: link: gcc -shared signal_9.o killed.o -o libx.so.137",
    "foo.c:3:2: warning: 'Killed' is deprecated [-Wdeprecated]",
    "Installing: killall5-137-r9 (exit code pages)",
    "Progress: 137 of 9000, -9 left",
]


@pytest.mark.parametrize(("log", "program"), wordings("memory"))
def test_deaths_by_memory_are_known(log: str, program: str | None) -> None:
    """Whatever says that memory ended or that signal 9 came is memory, with the program that died."""
    finding = judge(log)
    assert (finding.verdict, finding.program) == ("memory", program), finding
    assert finding.line
    assert finding.evidence in strip_prefixes(log.splitlines()[finding.line - 1])


@pytest.mark.parametrize(("log", "program"), wordings("other"))
def test_other_failures_are_not_taken_for_memory(log: str, program: str | None) -> None:
    """Another cause is another cause, however much its text resembles."""
    finding = judge(log)
    assert finding.verdict == "other", finding
    assert finding.evidence


@pytest.mark.parametrize(("log", "program"), [*wordings("unclear"), ("", None), ("hello\nworld", None)])
def test_doubt_is_called_doubt(log: str, program: str | None) -> None:
    """What may be either is neither."""
    assert judge(log).verdict == "unclear", judge(log)


@pytest.mark.parametrize("line", HARMLESS)
def test_words_alone_are_no_failure(line: str) -> None:
    """Names, commands and reports that hold the words say nothing."""
    assert judge(line) == Finding("unclear", "no line reports a failure")


PREFIXES = [
    "| ",
    "#12 34.56 ",
    "2024-03-05T10:11:12.1234567Z ",
    "2024-03-05T10:11:12.123456Z 00O ",
    "2024-03-05 10:11:12,123 - INFO     - ",
    "[2024-03-05T10:11:12.123Z] ",
    "[10:11:12] ",
    "00:12:34.567 ",
    "12:34.56 ",
    "builder-1  | ",
    "Mar  5 10:11:12 runner01 gitlab-runner[1701482]: ",
    "[pod/build-7f/step-build] ",
    "2024-03-05T10:11:12.1234567Z | ",
]
ALL_LOGS = [log.text for log in labelled_logs()]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_change_nothing(prefix: str) -> None:
    """What a CI system, docker build or BitBake puts before each line takes nothing from the verdict."""
    for log in ALL_LOGS:
        plain, prefixed = classify(log.splitlines()), classify(f"{prefix}{line}" for line in log.splitlines())
        assert (plain.verdict, plain.program, plain.line) == (prefixed.verdict, prefixed.program, prefixed.line), log


@pytest.mark.parametrize("form", ["{}\r", "\x1b[31m{}\x1b[0m", "\x1b[01m\x1b[K{}\x1b[m\x1b[K", "\x1b]8;;x\x07{}"])
def test_colours_and_line_ends_change_nothing(form: str) -> None:
    """Colours, hyperlinks and carriage returns are no part of what is said."""
    for log in ALL_LOGS:
        lines = log.splitlines()
        assert classify(map(form.format, lines)).verdict == classify(lines).verdict, log


@settings(deadline=None)
@given(st.lists(st.text() | st.sampled_from(HARMLESS + [log[:80] for log in ALL_LOGS])))
def test_no_text_raises(lines: list[str]) -> None:
    """Whatever stands in a log, there is a finding, and its line is one of the log's."""
    finding = classify(lines)
    assert finding.verdict in ("memory", "other", "unclear")
    assert finding.line is None or 1 <= finding.line <= len(lines)


@settings(deadline=None)
@given(st.binary(max_size=4096), st.integers(0, 40))
@example(b"\xfe\xff", 2)
@example(b"\xff\xfe" + b"k\0" * 19, 40)
def test_no_bytes_raise(noise: bytes, cut: int) -> None:
    """Bytes that are no UTF-8 around a line do not hide it."""
    noise = noise.replace(b"\n", b"").replace(b"\r", b"")[:cut]
    log = noise + b"\ng++: fatal error: Killed signal terminated program cc1plus\n" + noise
    assert classify_stream(io.BytesIO(log)).program == "cc1plus"


_KILL = "g++: fatal error: Killed signal terminated program cc1plus\n"
_CHINESE = "正在编译第一个文件请稍等一下\n中文日志上没有错误\n"
_JAPANESE = "これはとてもながいのでまたなにもないとおもいました" * 3 + "\n"


@pytest.mark.parametrize(
    ("log", "program"),
    [
        pytest.param(b"\xfe\xff" + _KILL.encode(), "cc1plus", id="a mark of UTF-16 before ASCII"),
        pytest.param(b"\xff\xfe" + _KILL.encode(), "cc1plus", id="the other mark before ASCII"),
        pytest.param(b"\xff\xfe\nld: out of memory", "ld", id="a mark before a few words"),
        pytest.param(b"\xff\xfe" + f"第一\n{_KILL}".encode(), "cc1plus", id="a mark before UTF-8"),
        pytest.param(b"\xff\xfe" + f"é\n{_KILL}".encode("latin-1"), "cc1plus", id="a mark before Latin-1"),
        pytest.param(b"\xff\xfe\0\0\xff\n" + _KILL.encode(), "cc1plus", id="a mark before zeros and ASCII"),
        pytest.param("ld: out of memory".encode("utf-16"), "ld", id="UTF-16 of a few words"),
        pytest.param((_CHINESE * 40 + _KILL).encode("utf-16"), "cc1plus", id="UTF-16 in Chinese"),
        pytest.param((_JAPANESE * 40 + _KILL).encode("utf-16"), "cc1plus", id="UTF-16 in Japanese"),
        pytest.param("\ufeff".encode("utf-16-be") + (_CHINESE + _KILL).encode("utf-16-be"), "cc1plus", id="turned"),
    ],
)
def test_a_mark_alone_makes_no_utf_16(log: bytes, program: str) -> None:
    """Two bytes of a mark do not hide what is plain text behind them, and UTF-16 in any language is read as such."""
    assert classify_stream(io.BytesIO(log)).program == program


def test_the_line_counts_in_a_large_log() -> None:
    """A kill in the middle of megabytes is found, with its number, though only the end is read closely."""
    progress = b"[1/9] x86_64-poky-linux-g++ -DOUT_OF_MEMORY=137 -c memory.cpp -o memory.o\n" * 40_000
    log = progress + b"| collect2: fatal error: ld terminated with signal 9 [Killed]\r\n" + progress
    finding = classify_stream(io.BytesIO(log))
    assert (finding.verdict, finding.program, finding.line) == ("memory", "ld", 40_001)


def test_one_endless_line_is_bounded() -> None:
    """Megabytes without the end of a line are no trouble, and no line of their own."""
    log = (
        b"x" * (3 << 20)
        + b" Cannot allocate memory "
        + b"y" * (3 << 20)
        + b"\nld: final link failed: memory exhausted\n"
    )
    assert classify_stream(io.BytesIO(log)).line in (1, 2)


def test_every_line_that_a_rule_knows_passes_the_first_look() -> None:
    """A line that the quick search passes over would be known in vain."""
    for log in ALL_LOGS:
        for text in log.splitlines():
            line = read_line(text, Prefixes(has_few_lines=True))
            if not line.is_quoted and any(rule.sign_in(line.messages) for rule in MEMORY_RULES):
                assert list(candidates(text.encode(), 1)), text


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (
            "ERROR: Logfile of failure stored in: /b/tmp/work/a/zlib-native/1.3/temp/log.do_install.7",
            ("zlib-native", "do_install"),
        ),
        (
            "ERROR: Task (mc:x:virtual:native:/l/zlib_1.3.bb:do_install) failed with exit code '1'",
            ("zlib-native", "do_install"),
        ),
        ("ERROR: Task (virtual:nativesdk:/l/a_1.bb:do_compile) failed", ("nativesdk-a", "do_compile")),
        ("ERROR: Task (virtual:multilib:lib32:/l/a_1.bb:do_compile) failed", ("lib32-a", "do_compile")),
        ("  virtual:native:/l/zlib_1.3.bb:do_compile", ("zlib-native", "do_compile")),
        ("ERROR: zlib-1.3-r0 do_install: oe_runmake failed", ("zlib", "do_install")),
        ("NOTE: recipe gcc-cross-arm-13.2.0-r0: task do_compile: Failed", ("gcc-cross-arm", "do_compile")),
        ("ERROR: Task 4389 (/l/wiggle_1.0.bb, do_fetch) failed with exit code '1'", ("wiggle", "do_fetch")),
    ],
)
def test_the_task_is_named(line: str, place: tuple[str, str]) -> None:
    """Recipe and task are taken from the lines BitBake names them in."""
    finding = classify(["collect2: fatal error: ld terminated with signal 9 [Killed]", line])
    assert (finding.recipe, finding.task) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/b/tmp/work/core2-64/zlib/1.3/temp/log.do_compile.123", ("zlib", "do_compile")),
        ("/b/tmp/work/core2-64/zlib/1.3/temp/run.do_compile_ptest_base", ("zlib", "do_compile_ptest_base")),
        ("/b/tmp/log/cooker/x86/20261127.log", None),
    ],
)
def test_a_tasks_log_is_known_by_its_path(path: str, place: tuple[str, str] | None) -> None:
    """Recipe and task are folders and part of the name of the task's log; other files are no task's."""
    assert place_of(path) == place


def test_the_task_named_last_before_a_line_is_at_fault() -> None:
    """Of several tasks the last one named up to a line is meant, and before the first of them that one."""
    places = Places()
    assert places.nearest(1) is None
    for line, name in ((5, "a"), (9, "b")):
        places.take(line, f"ERROR: {name}-1.0-r0 do_compile: failed")
    assert [places.nearest(line) for line in (1, 5, 8, 9)] == [(name, "do_compile") for name in "aaab"]


@pytest.mark.parametrize(
    ("lines", "strength"),
    [
        (["Currently  2 running tasks", "0: gcc-13.2-r0 do_compile - 5m3s"], Strength.DOUBT),
        (["Currently  2 running tasks", "0: gcc-13.2-r0 do_fetch - 5m3s"], Strength.DOUBT),
        (["recipe a-1-r0: task do_package_setscene: Started"], Strength.DOUBT),
        (["recipe a-1-r0: task do_compile: Started", "recipe a-1-r0: task do_compile: Failed"], Strength.DOUBT),
        (["recipe a-1-r0: task do_compile: Started", "Tasks Summary: Attempted 7 tasks"], None),
        (["hello"], None),
        ([], None),
    ],
)
def test_a_console_that_just_stops_is_a_sign(lines: list[str], strength: Strength | None) -> None:
    """A console that ends before its end is a doubt, whatever runs: it may still be written."""
    console = Console()
    for number, line in enumerate(lines, 1):
        console.take(number, line)
    mark = console.finish()
    assert mark is None if strength is None else mark is not None and mark.sign.strength is strength


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["FAILED: a.o", "gcc -c a.c", "[2/9] gcc -c b.c"], 1),
        (["FAILED: a.o", "gcc -c a.c", "ninja: build stopped: subcommand failed."], 1),
        (["FAILED: a.o", "gcc -c a.c", "a.c:1: error: no", "[2/9] gcc -c b.c"], None),
        (["FAILED: a.o", "gcc -c a.c"], None),
        (["[2/9] gcc -c b.c"], None),
    ],
)
def test_an_edge_that_fails_and_prints_nothing_is_found(lines: list[str], line: int | None) -> None:
    """ninja goes on, or stops, right after the command that failed: nothing was printed by it."""
    edges = FailedEdges()
    marks = [mark for number, text in enumerate(lines, 1) if (mark := edges.take(number, text))]
    assert [mark.line for mark in marks] == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (": && /usr/bin/clang++ -O2 -o bin/clang && :", "clang++"),
        ("cd /b && A=1 env -i python3 gen.py", "python3"),
        ('TOOL="$PWD/$(basename "out/bin/soong_build")" && cd / && env -i "$TOOL" --top x', "soong_build"),
        ("$CC -c a.c", None),
        ("", None),
    ],
)
def test_a_command_of_ninjas_that_was_killed_is_named(command: str, program: str | None) -> None:
    """ "Killed" alone, below a command that ninja shows, is what its shell says of the last program in it."""
    finding = judge(f"FAILED: x\n{command}\nKilled\nninja: build stopped: subcommand failed.\n")
    assert (finding.verdict, finding.program) == ("memory", program)


def test_the_runtimes_word_on_its_container_stands_before_a_hint() -> None:
    """Status 137 is no kill for memory where the container runtime has seen none; other doubts are not enough."""
    denial = Sign(Strength.DOUBT, "no kill", outweighs=(Strength.HINT,))
    for doubt, reason in ((denial, "no kill"), (Sign(Strength.DOUBT, "perhaps"), "status 137")):
        judge_of_both = Judge("")
        judge_of_both.add(Mark(1, "exit 137", Sign(Strength.HINT, "status 137")))
        judge_of_both.add(Mark(2, "OOMKilled: false", doubt))
        assert judge_of_both.finish().reason == reason


SETTINGS = ("ulimit -v 8000000", "+ ulimit -v 8000000", "see vm.max_map_count in the handbook", "RLIMIT_AS is not set")
KILLS = (
    "g++: fatal error: Killed signal terminated program cc1plus",
    "make: *** [Makefile:1: a.o] Killed",
    "[88.1] Memory cgroup out of memory: Killed process 42 (cc1plus) total-vm:1kB, anon-rss:9kB, file-rss:0kB",
    "Reason: OOMKilled",
)
EXHAUSTED = "cc1plus: out of memory allocating 65536 bytes after a total of 1073741824 bytes"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_limit_that_is_only_set_explains_no_kill(setting: str) -> None:
    """No limit of a process sends signal 9: what a script sets, or a text speaks of, takes nothing from a kill."""
    for kill in KILLS:
        for log in (f"{setting}\n{kill}\n", f"{kill}\n{setting}\n", f"{setting}\n{EXHAUSTED}\n{kill}\n"):
            assert judge(log).verdict == "memory", log
    assert judge(setting + "\nERROR: foo failed\n").reason == "it failed, and no line says why"
    assert judge(setting + "\n").reason == "no line reports a failure"
    assert judge(setting + "\nhello.c:1:1: error: x\n").reason == "a compile error"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_limit_explains_a_call_that_failed_beside_it(setting: str) -> None:
    """It is the cause where memory ends within a few lines, not at the other end of a log."""
    assert judge(f"{setting}\n{EXHAUSTED}\nmake: *** [a.o] Error 1\n").verdict == "other"
    far = "NOTE: a line\n" * 100
    assert judge(f"{setting}\n{far}{EXHAUSTED}\n").verdict == "memory"
    assert judge(f"{setting}\n{far}{setting}\n{EXHAUSTED}\n").verdict == "other"


def test_a_limit_that_failed_explains_no_kill_of_another_line() -> None:
    """Threads that could not be made, and a compiler that was killed: memory, unless one line says both."""
    threads = "pthread_create: EAGAIN"
    assert judge(f"{threads}\n{KILLS[0]}\n").verdict == "memory"
    assert judge(f"{threads}\n{EXHAUSTED}\n").remedy is Remedy.THREADS
    assert judge("remote: fatal: pack-objects died of signal 9\n").verdict == "other"
