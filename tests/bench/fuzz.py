# SPDX-License-Identifier: MIT
"""Spoilt inputs for every reader of bytes that come from elsewhere: no traceback, no hang, and no hog of memory.

Each reader is tried in processes of its own with the bytes of real samples, spoilt as the seed says (mutations): what
was found is found again with `--reader NAME --only NUMBER`. A finding is an exception that nobody catches, more than
5 s of CPU time, or more than 200 MiB beyond what the process had. Commands are run whole, so that what was read is also
judged and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from memguard.units import MIB, format_bytes

from .high_water import HIGH_WATER
from .readers import READERS, prepare

MOST_S, MOST_BYTES = 5.0, 200 * MIB
# Inputs that one process tries at most, and the time and memory after which it is ended from outside.
_AT_A_TIME, _TURN_S, _STUCK_S, _ROOM_BYTES = 400, 4.0, 120.0, 4 << 30
_FINDINGS_KEPT = 40


@dataclass
class Account:
    """What came of the inputs of one reader: findings are told once for each place in the code."""

    name: str
    tried: int = 0
    tracebacks: int = 0
    hangs: int = 0
    hogs: int = 0
    longest_s: float = 0.0
    most_bytes: int = 0
    findings: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not (self.tracebacks or self.hangs or self.hogs)


class _Hang(BaseException):
    """The CPU time for one input is used up."""


def main(arguments: list[str]) -> int:
    """Print a line for each reader; returns the exit status, 1 where something was found."""
    parser = argparse.ArgumentParser(prog="scripts/bench fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long in all")
    parser.add_argument("--seed", type=int, default=1, help="other inputs")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="only this one, repeat")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one input, whose exception is not caught")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was found as JSON, too")
    options = parser.parse_args(arguments)
    names = options.reader or list(READERS)
    scratch = Path(tempfile.mkdtemp(prefix="memguard-fuzz-"))
    try:
        (scratch / "samples").mkdir()
        prepare(scratch / "samples")
        if options.only is not None:
            (scratch / "input").mkdir()
            os.chdir(scratch / "input")
            READERS[names[0]](random.Random(f"{names[0]} {options.seed} {options.only}"), scratch / "input")
            return 0
        accounts = {name: Account(name) for name in names}
        end_s = time.monotonic() + options.seconds
        for turn in range(1 << 30):
            for place, name in enumerate(names):
                left_s = end_s - time.monotonic()
                turn_s = min(_TURN_S, left_s / (len(names) - place) if turn == 0 else left_s)
                if turn_s > 0 or turn == 0:
                    _take_turn(accounts[name], options.seed, max(0.05, turn_s), scratch)
            if time.monotonic() >= end_s:
                break
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for account in accounts.values():
        print(
            f"{account.name:14} {account.tried:8,} inputs  {account.tracebacks} tracebacks  {account.hangs} over "
            f"{MOST_S:g} s  {account.hogs} over {format_bytes(MOST_BYTES)}  longest {account.longest_s:.2f} s  most "
            f"{format_bytes(account.most_bytes)}"
        )
        for where, text in account.findings.items():
            print(f"    {where}: {text}")
    if options.json:
        options.json.write_text(json.dumps([asdict(account) for account in accounts.values()], indent=1) + "\n")
    return 0 if all(account.holds for account in accounts.values()) else 1


def _take_turn(account: Account, seed: int, seconds: float, scratch: Path) -> None:
    """Try inputs in a process of its own for so many seconds, from the number on that is next."""
    shared = mmap.mmap(-1, 4096)  # the number of the input that is tried now
    ours, theirs = os.pipe()
    directory = scratch / f"{account.name}-{account.tried}"
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _work(account, seed, seconds, directory, shared, theirs)
    os.close(theirs)
    watchdog = time.monotonic() + seconds + _STUCK_S
    with open(ours, "rb") as told:
        os.set_blocking(told.fileno(), False)
        text = b""
        while time.monotonic() < watchdog:
            part = told.read()
            if part == b"":
                break
            text += part or b""
            time.sleep(0.005)
        else:
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    shutil.rmtree(directory, ignore_errors=True)
    number = int.from_bytes(shared[:8], "little")
    if text.endswith(b"\n"):
        found = json.loads(text)
        for key, value in found.items():
            setattr(account, key, value)
    else:
        account.hangs += 1
        account.tried = number + 1
        account.findings.setdefault("a process that never ended or was killed", f"--only {number}")


def _work(account: Account, seed: int, seconds: float, directory: Path, shared: mmap.mmap, pipe: int) -> None:
    """What the process does; it never returns."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        resource.setrlimit(resource.RLIMIT_AS, (_ROOM_BYTES, _ROOM_BYTES))
        os.environ["HOME"] = str(directory)
        end_s = time.monotonic() + seconds
        for _ in range(_AT_A_TIME):
            shared[:8] = account.tried.to_bytes(8, "little")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            os.chdir(directory)
            _try(account, random.Random(f"{account.name} {seed} {account.tried}"), directory)
            account.tried += 1
            if time.monotonic() > end_s:
                break
        os.write(pipe, json.dumps(asdict(account)).encode() + b"\n")
    finally:
        os._exit(0)


def _try(account: Account, dice: random.Random, directory: Path) -> None:
    """One input."""
    HIGH_WATER.begin()
    began_s = time.process_time()
    try:
        with _limited():
            READERS[account.name](dice, directory)
    except _Hang as fault:
        account.hangs += 1
        _note(account, fault)
    except (Exception, SystemExit) as fault:
        account.tracebacks += 1
        _note(account, fault)
    account.longest_s = max(account.longest_s, round(time.process_time() - began_s, 3))
    taken = HIGH_WATER.most_bytes
    account.most_bytes = max(account.most_bytes, taken)
    if taken > MOST_BYTES:
        account.hogs += 1
        account.findings.setdefault(f"{format_bytes(taken)} taken", f"--only {account.tried}")


def _note(account: Account, fault: BaseException) -> None:
    """Keep the first input for each place that raised."""
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if re.search("memguard(_cli)?/", frame.filename)] or frames
    where = f"{type(fault).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}"
    if len(account.findings) < _FINDINGS_KEPT:
        account.findings.setdefault(where, f"{str(fault)[:100]!r} --only {account.tried}")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise _Hang in what takes too much CPU time."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
