# SPDX-License-Identifier: MIT
"""`memguard run` with random builds under a limit: status, outputs and files are the command's, and nothing is left.

Each seed is one command: make, ninja, cargo, g++ or a shell with a daemon, with jobs of random size under a limit that
fits a few of them, that ends well, fails, ends with 137 by itself, is killed by a signal, or is sent one that it
handles or not. What must hold: the exit status; standard output to the byte; every file, with its content; each signal
comes once; and afterwards there is no process, no cgroup and no temporary directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from memguard.units import MIB
from testbed import compilers, jobs

REPOSITORY = Path(__file__).resolve().parents[2]
V2RUN = Path(os.environ.get("MEMGUARD_V2RUN", REPOSITORY.parent / "shared" / "v2" / "v2run"))
TOOLS = ("make", "ninja", "cargo", "g++", "daemon")
ENDS = (
    "handles TERM",
    "well",
    "well",
    "fails",
    "137",
    "TERM itself",
    "KILL itself",
    "sent INT",
    "sent TERM",
    "sent HUP",
    "handles TERM",
)
SENT = {
    "sent INT": signal.SIGINT,
    "sent TERM": signal.SIGTERM,
    "sent HUP": signal.SIGHUP,
    "handles TERM": signal.SIGTERM,
}
WAIT_S = 240.0
# A variable by which all that a command has started is found again.
MARK = "MEMGUARD_BENCH_RUN"


@dataclass
class Profile:
    """One command and what must come of it. files: by name, with what they hold in the end."""

    seed: int
    tool: str
    end: str
    limit_mib: int | None
    jobs: int
    command: list[str] = field(default_factory=list)
    status: int = 0
    output: str = ""
    files: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        limit = f"{self.limit_mib} MiB" if self.limit_mib else "no limit"
        what = f"skipped, {self.skipped}" if self.skipped else "; ".join(self.wrong) or "ok"
        return f"seed {self.seed:3} {self.tool:6} {self.end:12} {limit:8} -j{self.jobs}: {what}"


def main(arguments: list[str]) -> int:
    """Print a line for each seed, and the sum; returns the exit status, 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/bench run", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="how many commands")
    parser.add_argument("--first", type=int, default=1, help="the first seed: a command is repeated by its number")
    parser.add_argument("--v2", action="store_true", help="inside a real cgroup v2 kernel (MEMGUARD_V2RUN)")
    options = parser.parse_args(arguments)
    if options.v2:
        if not V2RUN.exists():
            print(f"scripts/bench run: no real cgroup v2 kernel here: {V2RUN} (MEMGUARD_V2RUN) is not there")
            return 2
        words = [sys.executable, "-m", "bench.run", "--seeds", str(options.seeds), "--first", str(options.first)]
        return subprocess.run([str(V2RUN), *words], cwd=REPOSITORY, check=False).returncode
    # A shell that starts this in the background has it, and all it starts, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="bench-run-"))
    found = []
    try:
        programs = compilers.build(scratch)
        for seed in range(options.first, options.first + options.seeds):
            profile = judge(seed, scratch / f"run-{seed}", programs)
            found.append(profile)
            print(profile, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    skipped = sum(bool(profile.skipped) for profile in found)
    wrong = sum(bool(profile.wrong) for profile in found)
    print(f"{len(found) - skipped - wrong} of {len(found)} right in every respect, {skipped} skipped")
    return 1 if wrong else 0


def profile_of(seed: int) -> Profile:
    """Tool, end, limit and jobs of a seed."""
    dice = random.Random(f"run {seed}")
    tool, end = TOOLS[seed % len(TOOLS)], dice.choice(ENDS)
    limit = dice.choice((256, 384, 512, 512, None if tool == "daemon" else 768))
    return Profile(seed, tool, end, limit, dice.choice((1, 2, 4, 16)))


def judge(seed: int, directory: Path, programs: Path) -> Profile:
    """Make the command of a seed, run it, and see what came of it."""
    profile = profile_of(seed)
    directory.mkdir()
    try:
        body = _BODIES[profile.tool](profile, random.Random(f"units {seed}"), directory, programs)
    except jobs.NotHere as missing:
        profile.skipped = str(missing)
        return profile
    _write_script(profile, directory, body)
    (directory / "tmp").mkdir()
    with _running(profile, directory) as process:
        sent = SENT.get(profile.end)
        if sent is not None and _until(lambda: (directory / "ready").exists() or process.poll() is not None):
            process.send_signal(sent)
        try:
            output, said = process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            profile.wrong.append("never ended")
            process.kill()
            output, said = process.communicate()
    _compare(profile, directory, process.returncode, output, said)

    def left() -> list[object]:
        groups = Path("/sys/fs/cgroup").glob(f"**/memguard-run-{process.pid}")
        return [*_started(seed), *groups, *(directory / "tmp").iterdir()]

    if not _until(lambda: not left(), 20):
        profile.wrong.append(f"left: {left()}")
        for pid in _started(seed):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
    return profile


# -- commands -------------------------------------------------------------------------------------------------------


def _write_script(profile: Profile, directory: Path, body: str) -> None:
    """What runs: the tool, and then the end that the profile wants."""
    end = profile.end
    lines, status = {
        "well": ("", 0),
        "fails": ("exit 3", 3),
        "137": ("exit 137", 137),
        "TERM itself": ("kill -TERM $$", 143),
        "KILL itself": ("kill -KILL $$", 137),
        "sent INT": ("touch ready; sleep 600", 130),
        "sent TERM": ("touch ready; sleep 600", 143),
        "sent HUP": ("touch ready; sleep 600", 129),
        "handles TERM": ("touch ready; while [ ! -e got ]; do sleep 0.1; done; sleep 0.3; exit 9", 9),
    }[end]
    trap = "trap 'echo TERM >> got' TERM\n" if end == "handles TERM" else ""
    if trap:
        profile.files["got"] = "TERM\n"
    if "ready" in lines:
        profile.files["ready"] = ""
    profile.status = status
    profile.output = "begun\nbuilt\n"
    text = f"{trap}echo begun; echo to error >&2\n{body} >&2 || exit 99\necho built\n{lines}\n"
    (directory / "script").write_text(text, encoding="ascii")
    profile.command = ["sh", "script"]


def _units(profile: Profile, dice: random.Random, programs: Path) -> dict[str, str]:
    """Objects by name, each with the command that makes it: a compiler of random size and length."""
    largest = (profile.limit_mib or 768) // 2 - 60
    found = {}
    for number in range(dice.choice((3, 6, 12))):
        half_s, mib = dice.uniform(0.05, 0.4), dice.randrange(5, max(6, largest))
        found[f"o{number}"] = (
            f"{programs}/cc1plus -o o{number}.tmp -p {half_s:.2f}:{mib // 2},{2 * half_s:.2f}:{mib} && "
            f"echo object {number} > o{number} && rm -f o{number}.tmp"
        )
        profile.files[f"o{number}"] = f"object {number}\n"
    return found


def _make(profile: Profile, dice: random.Random, directory: Path, programs: Path) -> str:
    units = _units(profile, dice, programs)
    rules = "".join(f"{name}:\n\t@{line}\n" for name, line in units.items())
    (directory / "Makefile").write_text(f"all: {' '.join(units)}\n{rules}", encoding="ascii")
    return "make"


def _ninja(profile: Profile, dice: random.Random, directory: Path, programs: Path) -> str:
    units = _units(profile, dice, programs)
    rules = "".join(f"build {name}: run\n  line = {line}\n" for name, line in units.items())
    (directory / "build.ninja").write_text(f"rule run\n  command = $line\n{rules}", encoding="ascii")
    return str(jobs.find_ninja())


def _cargo(profile: Profile, dice: random.Random, directory: Path, programs: Path) -> str:
    cargo = shutil.which("cargo")
    if cargo is None or subprocess.run([cargo, "--version"], capture_output=True, check=False).returncode:
        raise jobs.NotHere("there is no cargo")
    count = dice.choice((1, 3))
    names = [f"part{number}" for number in range(count)]
    members = ", ".join(f'"{name}"' for name in names)
    (directory / "Cargo.toml").write_text(f'[workspace]\nresolver = "2"\nmembers = [{members}]\n', encoding="ascii")
    for name in names:
        (directory / name / "src").mkdir(parents=True)
        (directory / name / "Cargo.toml").write_text(
            f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n', encoding="ascii"
        )
        (directory / name / "src" / "main.rs").write_text(f'fn main() {{ println!("{name}"); }}\n', encoding="ascii")
        profile.files[f"said-{name}"] = f"{name}\n"
    runs = "".join(f" && target/debug/{name} > said-{name}" for name in names)
    return f"{{ cargo build -q --offline{runs}; }}"


def _cxx(profile: Profile, dice: random.Random, directory: Path, programs: Path) -> str:
    if shutil.which("g++") is None:
        raise jobs.NotHere("there is no g++")
    names = [f"unit{number}" for number in range(dice.choice((1, 3)))]
    for name in names:
        source = f'#include <map>\n#include <string>\n#include <cstdio>\nint main() {{ std::puts("{name}"); }}\n'
        (directory / f"{name}.cpp").write_text(source, encoding="ascii")
        profile.files[f"said-{name}"] = f"{name}\n"
    starts = " ".join(f"g++ -O1 -pipe -o {name} {name}.cpp &" for name in names)
    runs = "".join(f" && ./{name} > said-{name}" for name in names)
    return f"{{ {starts} wait{runs}; }}"


def _daemon(profile: Profile, dice: random.Random, directory: Path, programs: Path) -> str:
    """A process that leaves session and parent; under a limit of its own cgroup, or a signal, it ends with the rest."""
    lives = profile.limit_mib is None and profile.end in ("well", "fails", "137", "TERM itself", "KILL itself")
    last = "echo late > late" if lives else "sleep 600"
    work = f"{programs}/cc1plus -o d.tmp -p 0.2:20,0.4:40; rm -f d.tmp; sleep 2.5; {last}"
    if lives:
        profile.files["late"] = "late\n"
    return f"(setsid sh -c '{work}' </dev/null >/dev/null 2>&1 &) && sleep 0.8"


_BODIES = {"make": _make, "ninja": _ninja, "cargo": _cargo, "g++": _cxx, "daemon": _daemon}


# -- running and judging --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(profile: Profile, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The command under memguard run, in a session of its own as under a CI system."""
    limit = ["--limit", f"{profile.limit_mib}M"] if profile.limit_mib else []
    words = [sys.executable, "-m", "memguard_cli.main", "run", *limit, "--jobs", str(profile.jobs)]
    path = f"{REPOSITORY / 'meta-memguard' / 'lib'}:{REPOSITORY / 'lib'}"
    process = subprocess.Popen(
        [*words, "--json", "account.json", "--", *profile.command],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, MARK: _mark(profile.seed), "TMPDIR": str(directory / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _compare(profile: Profile, directory: Path, status: int, output: str, said: str) -> None:
    """Note what differs from what must be."""
    wrong = profile.wrong
    if status != profile.status:
        wrong.append(f"status {status} instead of {profile.status}: {said[-400:]!r}")
    if output != profile.output:
        wrong.append(f"output {output!r} instead of {profile.output!r}")
    if said.count("to error\n") != 1 or "unguarded" in said or "Traceback" in said:
        wrong.append(f"said {said[-400:]!r}")
    _until(lambda: "late" not in profile.files or (directory / "late").exists())
    made = {path.name: path for path in directory.iterdir() if path.is_file()}
    for name, content in profile.files.items():
        found = made[name].read_text(encoding="utf-8") if name in made else None
        if found != content:
            wrong.append(f"{name} holds {found!r} instead of {content!r}")
    if {"late", "got"} & (made.keys() - profile.files.keys()):
        wrong.append("files that should not be there")
    account = json.loads(made["account.json"].read_text(encoding="utf-8")) if "account.json" in made else {}
    if account.get("exit_status") != profile.status:
        wrong.append(f"account of {account.get('exit_status')}")
    if account.get("oom_kills"):
        wrong.append(f"{account['oom_kills']} killed by the kernel")
    if profile.limit_mib and account.get("limit_bytes") != profile.limit_mib * MIB:
        wrong.append(f"a limit of {account.get('limit_bytes')}")


def _mark(seed: int) -> str:
    return f"{os.getpid()}-{seed}"


def _started(seed: int) -> list[int]:
    """The processes that a command has started and that are there still."""
    found = []
    mark = f"{MARK}={_mark(seed)}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _until(holds: Callable[[], object], seconds: float = WAIT_S) -> bool:
    """Wait until something holds."""
    deadline_s = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
