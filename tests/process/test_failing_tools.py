# SPDX-License-Identifier: MIT
"""What real tools print when a process of theirs is killed, crashes or gets no memory, and what is found in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.failures import judge, printed


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


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


@pytest.mark.parametrize(
    ("command", "most_kib"),
    [
        ("gcc -c -o out.o large.c", 16_000),
        ("g++ -c -o out.o large.c", 16_000),
        ("ld.bfd -r -o out.o large.o", 4_000),
        ("ld.gold -r -o out.o large.o", 800),
    ],
    ids=["cc1", "cc1plus", "ld.bfd", "ld.gold"],
)
def test_real_compilers_and_linkers_run_out_of_memory(tmp_path: Path, command: str, most_kib: int) -> None:
    """What they print at a soft limit of their data (RLIMIT_DATA), and that no half-written output is left in place."""
    if not shutil.which(command.split()[0]):
        pytest.skip(f"{command.split()[0]} is not installed")
    numbers = ",".join(f'{{{number},"name {number}"}}' for number in range(50_000))
    (tmp_path / "large.c").write_text(f"struct {{int number; const char *name;}} all[] = {{{numbers}}};\n")
    if command.startswith("ld"):
        subprocess.run(["gcc", "-g", "-c", "large.c"], cwd=tmp_path, check=True)
    text = printed("sh", "-c", f"ulimit -S -d {most_kib}; exec {command}", cwd=tmp_path)
    assert judge(text).verdict == "memory", text
    assert not (tmp_path / "out.o").exists()
