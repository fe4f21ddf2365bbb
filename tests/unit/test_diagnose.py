# SPDX-License-Identifier: MIT
"""What logs say of memory and of everything else: public samples, public wordings, and what real tools print."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memguard.diagnose.lines import strip_prefixes
from memguard.diagnose.memory_rules import MEMORY_RULES
from memguard.diagnose.scan import _candidates, classify, classify_stream
from memguard.diagnose.verdict import Finding
from testbed.container import NoContainer, container

LOGS = Path(__file__).parents[1] / "fixtures" / "failure-logs"
VERDICTS = {"oom": "memory", "other": "other", "ambiguous": "unclear"}
SAMPLES = list(csv.DictReader((LOGS / "INDEX.tsv").open(encoding="utf-8"), delimiter="\t"))


def judge(text: str) -> Finding:
    """The finding over a log given as text, which must be the same by lines and by bytes."""
    text = textwrap.dedent(text).strip("\n") + "\n"
    finding = classify(text.splitlines(keepends=True))
    assert finding == classify_stream(io.BytesIO(text.encode()))
    return finding


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
    lost = [line for line in lines if not list(_candidates(line.encode(), 1))]
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


# -- what real tools print ---------------------------------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def printed(*command: str, cwd: Path, **variables: str) -> str:
    """What a command that fails prints."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode != 0
    return done.stdout


@pytest.mark.parametrize(("signal_name", "verdict"), [("KILL", "memory"), ("SEGV", "other"), ("ABRT", "other")])
def test_real_gcc_tells_kills_from_crashes(tmp_path: Path, signal_name: str, verdict: str) -> None:
    """The driver's own words on a cc1plus that died."""
    script(tmp_path / "cc1plus", f"kill -{signal_name} $$")
    (tmp_path / "x.cc").write_text("int x;\n")
    finding = judge(printed("g++", f"-B{tmp_path}", "-c", "x.cc", cwd=tmp_path))
    assert (finding.verdict, finding.program) == (verdict, "cc1plus")


@pytest.mark.parametrize(("signal_name", "verdict"), [("KILL", "memory"), ("SEGV", "unclear")])
def test_real_collect2_tells_of_its_linker(tmp_path: Path, signal_name: str, verdict: str) -> None:
    """collect2's own words on a linker that died."""
    script(tmp_path / "ld", f"kill -{signal_name} $$")
    (tmp_path / "x.c").write_text("int main(void) { return 0; }\n")
    finding = judge(printed("gcc", f"-B{tmp_path}", "x.c", cwd=tmp_path))
    assert (finding.verdict, finding.program) == (verdict, "ld")


@pytest.mark.parametrize(
    ("recipe", "verdict"), [("kill -9 $$$$", "memory"), ("exit 137", "memory"), ("exit 2", "other")]
)
def test_real_make_tells_of_its_child(tmp_path: Path, recipe: str, verdict: str) -> None:
    """GNU make's own words on a child that was killed, and on a shell that says 137."""
    (tmp_path / "Makefile").write_text(f"all:\n\t@{recipe}\n")
    assert judge(printed("make", cwd=tmp_path)).verdict == verdict


def test_real_ninja_leaves_a_doubt_at_least(tmp_path: Path) -> None:
    """ninja's words on a command that was killed: those of 1.12 name status 137, older ones say nothing."""
    if not shutil.which("ninja"):
        pytest.skip("ninja is not installed")
    (tmp_path / "build.ninja").write_text("rule x\n  command = kill -9 $$$$\nbuild out: x\n")
    assert judge(printed("ninja", cwd=tmp_path)).verdict in ("memory", "unclear")


def test_real_cargo_tells_of_rustc(tmp_path: Path) -> None:
    """cargo's own words on a rustc that was killed."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is not installed")
    asked = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("rustc is rustup's here, and this home has no toolchain for it")
    real = asked.stdout.strip()
    rustc = script(
        tmp_path / "rustc", f'case "$*" in *"--crate-name killed"*) kill -9 $$;; esac\nexec {real}/bin/rustc "$@"'
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.rs").write_text("fn main() {}\n")
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "killed"\nversion = "0.1.0"\nedition = "2021"\n')
    finding = judge(printed("cargo", "build", "--offline", cwd=tmp_path, RUSTC=str(rustc)))
    assert (finding.verdict, finding.program) == ("memory", "rustc")


def test_real_python_and_bash_tell_of_their_child(tmp_path: Path) -> None:
    """What subprocess raises, and what bash prints, when a child was killed."""
    xz = script(tmp_path / "xz", "kill -9 $$")
    code = f"import subprocess; subprocess.run([{str(xz)!r}, '-k'], check=True)"
    assert judge(printed(sys.executable, "-c", code, cwd=tmp_path)).program == "xz"
    assert judge(printed("bash", "-c", f"{xz} -k\nexit 1", cwd=tmp_path)).program == "xz"


def test_real_python_and_xz_run_out_of_memory(tmp_path: Path) -> None:
    """What programs print that may take no more memory, which is what a container without overcommit makes of it."""
    limited = "ulimit -v 200000; exec "
    for command, program in (
        (f"{sys.executable} -c 'x = bytearray(1 << 30)'", None),
        ("xz -9 -T 8 -k Makefile", "xz"),
    ):
        (tmp_path / "Makefile").write_text("x" * 100_000)
        finding = judge(printed("sh", "-c", limited + command, cwd=tmp_path))
        assert (finding.verdict, finding.program) == ("memory", program)


@pytest.mark.memcg
def test_a_real_compiler_killed_by_the_kernel(tmp_path: Path) -> None:
    """g++ in a memory cgroup that is too small for its cc1plus.

    It runs once outside first, so that its pages are nobody's: evicted and read again without end, they would let it
    crawl at the limit.
    """
    (tmp_path / "x.cc").write_text('#include <regex>\n#include <iostream>\nstd::regex r("a*");\nint main() {}\n')
    subprocess.run(["g++", "-O2", "-c", "x.cc"], cwd=tmp_path, check=True)
    try:
        with container(96 << 20, name="memguard-failures") as small:
            text = printed(*small.prefix, "g++", "-O2", "-c", "x.cc", cwd=tmp_path)
            assert small.oom_kills
    except NoContainer as reason:
        pytest.skip(str(reason))
    finding = judge(text)
    assert (finding.verdict, finding.program) == ("memory", "cc1plus")
