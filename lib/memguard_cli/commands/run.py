# SPDX-License-Identifier: MIT
"""`memguard run`: any command under the same pool and reflex as the tasks of a build.

Runs in: outside BitBake.
Covers: arguments, what is remembered from run to run, the summary, and the data for machines.
Does not cover: the loop (supervise), the cgroup (enclosure).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

import click

from memguard.model import Policy
from memguard.predict.remembered_lives import Lives
from memguard.units import counted, digest, format_bytes, parse_bytes, parse_share
from memguard_cli.screens.text import printable
from memguard_cli.supervise.enclosure import Enclosure, NoEnclosure
from memguard_cli.supervise.supervisor import Account, NotStarted, Supervisor, Wish

LEAST_LIMIT_BYTES = 16 * 1024**2
# What goes on from what is built already when it is run again.
_CONTINUING = frozenset({"make", "gmake", "ninja", "ninja-build", "samu", "cargo", "cmake", "meson", "bazel", "scons"})
_CONTINUES = 2
# As shells have it.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


def _size(name: str, example: str, least: int = 1) -> Any:
    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            size = parse_bytes(value)
        except ValueError:
            raise click.UsageError(f"{name} {value}: not a size; a good value is {name} {example}") from None
        if size < least:
            why = f"less than {format_bytes(least)}"
            raise click.UsageError(f"{name} {value}: {why}; a good value is {name} {example}")
        return size

    return parse


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--limit", callback=_size("--limit", "4G", LEAST_LIMIT_BYTES), help="Memory the command may use.")
@click.option("--jobs", type=click.IntRange(1, 4096), help="Most jobs at once; default: as many as CPUs.")
@click.option("--job-size", callback=_size("--job-size", "600M"), help="What one job is thought to take at first.")
@click.option("--reserve", help="Memory kept free: a size, or a share of the limit (10%).")
@click.option("--retries", type=click.IntRange(0, 100), help="Runs again after a job was lost for memory.")
@click.option(
    "--history", type=click.Path(dir_okay=False, path_type=Path), help="Remember in FILE what each job takes."
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write what it took to FILE.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    limit: int | None,
    jobs: int | None,
    job_size: int | None,
    reserve: str | None,
    retries: int | None,
    history: Path | None,
    file: Path | None,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND with as many jobs as fit into memory, second by second.

    make, ninja (1.13 or newer), cargo and what they start take their jobs from a pool that shrinks as memory gets short
    and grows again; compilers are stopped, and in need killed, before the kernel kills. Give no -j to COMMAND: it would
    switch the pool off. With --limit, as root or where a cgroup is delegated, the limit is enforced as well; without,
    it is the container's own. With --history, the next run of COMMAND in a directory of this name knows what each job
    will take as soon as it begins.

    \b
    Examples:
      memguard run -- make
      memguard run --limit 4G --jobs 16 -- ninja -C build
      memguard run --limit 4G --json run.json -- sh -c 'make && cargo build'
      memguard run --history build.db -- ninja -C build

    The exit status is COMMAND's, 128 and the signal's number where a signal ended it; 2 for a wrong argument, 126 for
    what cannot be run, 127 where there is no such command.
    """
    if not command:
        raise click.UsageError("no command is given; a good call is: memguard run --limit 4G -- make")
    for option, path, example in (("--json", file, "run.json"), ("--history", history, "build.db")):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"{option} {path}: its directory does not exist; a good value is {option} {example}")
    found = shutil.which(command[0])
    if found is None:
        is_there = os.sep in command[0] and Path(command[0]).exists()
        why = "is not a program that can be run" if is_there else "no such command"
        _say(f"{command[0]}: {why}; a good call is: memguard run -- make")
        return _NOT_EXECUTABLE if is_there else _NOT_FOUND
    _fill_standard_streams()
    # First all that may be refused, so that no cgroup is left behind.
    policy = _policy(reserve)
    remembered = _Remembered(history, command) if history is not None else None
    enclosure = _enclose(limit)
    if retries is None:
        retries = _CONTINUES if Path(found).name in _CONTINUING else 0
    wish = Wish(command, limit, jobs, job_size, policy, retries)
    supervisor = Supervisor(wish, enclosure, os.environ, remembered.lives if remembered else None, _say)
    try:
        account = supervisor.run()
    except NotStarted as reason:
        _say(f"{reason}; a good call is: memguard run -- make")
        return _NOT_EXECUTABLE
    # From here on nothing that fails changes the answer.
    if remembered is not None and account.exit_status == 0:
        _try_to(remembered.keep, f"{history} remembers nothing of this run")
    for line in _summary(account):
        _say(line)
    if file is not None:
        text = json.dumps({"command": list(command), **asdict(account)}, indent=2) + "\n"
        _try_to(lambda: _write(file, text), f"--json {file} cannot be written")
    supervisor.end_as_command()
    return account.exit_status


def _say(text: str) -> None:
    """A sentence on standard error, where that takes one: the command matters more."""
    try:
        click.echo(f"memguard: {printable(text)}", err=True)
    except (OSError, ValueError):
        # What stays in Python's buffer would fail again, and change the exit status, when Python ends.
        with contextlib.suppress(OSError, ValueError):
            _give_nothing_for(sys.stderr.fileno())


def _try_to(do: Callable[[], object], complaint: str) -> None:
    """Do something after the command's end; a sentence where it fails."""
    try:
        do()
    except Exception as fault:
        why = fault.strerror if isinstance(fault, OSError) and fault.strerror else repr(fault)
        _say(f"{complaint}: {why}")


def _write(path: Path, text: str) -> None:
    """Write a file, or into what stands there. Raises OSError, also for a FIFO that nobody reads."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with open(file, "w", encoding="utf-8") as output:
        output.write(text)


def _fill_standard_streams() -> None:
    """See that no other file gets the number of a standard stream that was closed; the command's stays so."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())


def _give_nothing_for(number: int) -> None:
    """Let what is written to a descriptor vanish."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nothing, number)
    os.close(nothing)


class _Remembered:
    """What the jobs of a command took in earlier runs. Raises UsageError for a file that is no history."""

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        from memguard.record.history.samples import NAME_MOST
        from memguard.record.history.store import History
        from memguard_cli.builds import history_file

        self._name = (printable(Path.cwd().name), _name(command, NAME_MOST))
        self._history = History(path, history_file.find_max_bytes(None), warn=_say)
        self.lives = Lives()
        if not history_file.is_there(path):
            return
        with contextlib.closing(History(path, warn=lambda text: None, is_read_only=True)) as history:
            self.lives = Lives.found(history.lives(*self._name))
            if not history.is_usable:
                raise click.UsageError(str(history.failure))
            if history.failure is not None:
                _say(f"{history.failure}: what jobs took before is not known")

    def keep(self) -> None:
        """Remember those of this run, too; where that is not possible, say so."""
        if self.lives.has_news:
            self._history.remember_lives(*self._name, self.lives.packed())
            self._history.close()


def _name(command: Sequence[str], most: int) -> str:
    """The words of a command, in no more than `most` characters."""
    words = printable(" ".join(command))
    return words if len(words) <= most else f"{words[: most - 17]} {digest(words.encode()).hex()}"


def _policy(reserve: str | None) -> Policy:
    if reserve is None:
        return Policy()
    share = parse_share(reserve)
    if share is not None and share < 1:
        return Policy(reserve_share=share)
    try:
        return Policy(reserve_bytes=parse_bytes(reserve))
    except ValueError:
        raise click.UsageError(f"--reserve {reserve}: not a size or share; a good value is --reserve 10%") from None


def _enclose(limit: int | None) -> Enclosure | None:
    """A cgroup that enforces the limit, where one can be made; else a word on why not."""
    if limit is None:
        return None
    try:
        return Enclosure(limit)
    except NoEnclosure as reason:
        _say(f"the limit is watched but not enforced ({reason})")
        return None


def _summary(account: Account) -> list[str]:
    """What it took, in three lines."""
    share = 100 * account.peak_bytes // max(1, account.limit_bytes)
    least, most = (account.tokens_min or 0) + 1, account.tokens_max + 1
    return [
        f"peak {format_bytes(account.peak_bytes)} of {format_bytes(account.limit_bytes)} ({share} %, "
        f"{account.limit_source}), {account.oom_kills} killed by the kernel for memory",
        f"{least} to {most} jobs of {account.jobs} allowed; stopped {counted(account.stopped, 'job')}, "
        f"woke {account.woken}, killed {account.killed}, retried {counted(account.retried, 'time')}",
        f"{account.wall_s:.1f} s, exit status {account.exit_status}",
    ]
