# SPDX-License-Identifier: MIT
"""What logs say of memory and of everything else: public samples and public wordings."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memguard.diagnose.console import Console, SilentEdges
from memguard.diagnose.lines import strip_prefixes
from memguard.diagnose.memory_rules import MEMORY_RULES
from memguard.diagnose.place import Places, place_of
from memguard.diagnose.rule import Mark, Sign, Strength
from memguard.diagnose.scan import candidates, classify, classify_stream
from memguard.diagnose.verdict import Finding, Judge
from testbed.failures import judge

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
    assert judge(line) == Finding("unclear", "no line tells of a failure")


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
ALL_LOGS = [
    *((LOGS / sample["file"]).read_text(encoding="utf-8") for sample in SAMPLES),
    *(parameter.values[0] for kind in ("memory", "other", "unclear") for parameter in wordings(kind)),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_change_nothing(prefix: str) -> None:
    """What a CI system, docker build or BitBake puts before each line takes nothing from the verdict."""
    for log in ALL_LOGS:
        plain, prefixed = judge(log), judge("".join(f"{prefix}{line}\n" for line in log.splitlines()))
        assert (plain.verdict, plain.program, plain.line) == (prefixed.verdict, prefixed.program, prefixed.line), log


@pytest.mark.parametrize("form", ["{}\r", "\x1b[31m{}\x1b[0m", "\x1b[01m\x1b[K{}\x1b[m\x1b[K", "\x1b]8;;x\x07{}"])
def test_colours_and_line_ends_change_nothing(form: str) -> None:
    """Colours, hyperlinks and carriage returns are no part of what is said."""
    for log in ALL_LOGS:
        assert judge("\n".join(map(form.format, log.splitlines()))).verdict == judge(log).verdict, log


@settings(deadline=None)
@given(st.lists(st.text() | st.sampled_from(HARMLESS + [log[:80] for log in ALL_LOGS])))
def test_no_text_raises(lines: list[str]) -> None:
    """Whatever stands in a log, there is a finding, and its line is one of the log's."""
    finding = classify(lines)
    assert finding.verdict in ("memory", "other", "unclear")
    assert finding.line is None or 1 <= finding.line <= len(lines)


@settings(deadline=None)
@given(st.binary(max_size=4096), st.integers(0, 40))
def test_no_bytes_raise(noise: bytes, cut: int) -> None:
    """Bytes that are no UTF-8 around a line do not hide it."""
    noise = noise.replace(b"\n", b"").replace(b"\r", b"")[:cut]
    log = noise + b"\ng++: fatal error: Killed signal terminated program cc1plus\n" + noise
    assert classify_stream(io.BytesIO(log)).program == "cc1plus"


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


def test_every_word_of_a_rule_passes_the_first_look() -> None:
    """A rule whose words the quick search does not know would be tried in vain."""
    words = {word for rule in MEMORY_RULES for word in rule.words}
    lines = [f"exit code: {'M' if word.startswith('emory') else ''}{word}" for word in words]
    lost = [line for line in lines if not list(candidates(line.encode(), 1))]
    assert lost == []


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (
            "ERROR: Logfile of failure stored in: /b/tmp/work/a/zlib-native/1.3/temp/log.do_install.7",
            ("zlib-native", "do_install"),
        ),
        (
            "ERROR: Task (mc:x:virtual:native:/l/zlib_1.3.bb:do_install) failed with exit code '1'",
            ("zlib", "do_install"),
        ),
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
    edges = SilentEdges()
    marks = [mark for number, text in enumerate(lines, 1) if (mark := edges.take(number, text))]
    assert [mark.line for mark in marks] == ([] if line is None else [line])


def test_the_runtimes_word_on_its_container_stands_before_a_hint() -> None:
    """Status 137 is no kill for memory where the container runtime has seen none; other doubts are not enough."""
    denial = Sign(Strength.DOUBT, "no kill", outweighs=(Strength.HINT,))
    for doubt, reason in ((denial, "no kill"), (Sign(Strength.DOUBT, "perhaps"), "status 137")):
        judge_of_both = Judge("")
        judge_of_both.add(Mark(1, "exit 137", Sign(Strength.HINT, "status 137")))
        judge_of_both.add(Mark(2, "OOMKilled: false", doubt))
        assert judge_of_both.finish().reason == reason
