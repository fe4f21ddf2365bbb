# SPDX-License-Identifier: MIT
"""Make a build directory and run BitBake in it, so that nothing is left running afterwards.

Covers: configuration of a build, one command at a time, its time limit, and
the end of server, workers and tasks. Linux only: processes are found in /proc.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bitbake import BitBake, environment

META_TEST = Path(__file__).resolve().parents[1] / "bitbake" / "meta-test"

# How long server and tasks may take to end by themselves after the command has.
_GRACE_S = 20.0
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Result:
    """What a command did: `output` holds stdout and stderr as they came.

    `leftover` names the processes that outlived the command by more than the
    grace time and were killed; returncode is -9 after a timeout.
    """

    args: tuple[str, ...]
    returncode: int
    output: str
    wall_s: float
    leftover: tuple[str, ...] = ()


def make(path: Path, layers: Sequence[Path], local_conf: str, multiconfigs: Mapping[str, str] = {}) -> Path:
    """Write a build directory of these layers and return it.

    `multiconfigs` maps the name of each multiconfig to its configuration; all
    of them are enabled. `META_TEST` is the layer to begin with.
    """
    conf = path / "conf"
    (conf / "multiconfig").mkdir(parents=True, exist_ok=True)
    listed = " ".join(str(layer) for layer in layers)
    (conf / "bblayers.conf").write_text(
        f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{listed}"\n', encoding="utf-8"
    )
    enabled = f'BBMULTICONFIG ?= "{" ".join(multiconfigs)}"\n' if multiconfigs else ""
    # Builds of other tests, perhaps of somebody else's on this machine, are no neighbours unless a test says so.
    apart = 'MEMGUARD_NEIGHBOURS ?= "off"\n'
    (conf / "local.conf").write_text(f"{apart}{enabled}{local_conf}\n", encoding="utf-8")
    for name, text in multiconfigs.items():
        (conf / "multiconfig" / f"{name}.conf").write_text(f"{text}\n", encoding="utf-8")
    return path


def run(
    bitbake: BitBake,
    builddir: Path,
    *args: str,
    timeout: float = 600,
    extra_env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    log: Path | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Result:
    """Run `bitbake ARGS` in a build directory and wait until its server is gone as well.

    After `timeout` seconds, or once `is_over` says so, everything that belongs to the command is killed. `prefix` are
    words to put before the command, as a container gives them; `log` is a file that gets the output while it runs.
    """
    builddir = builddir.resolve()
    lock = builddir / "bitbake.lock"
    env = environment(bitbake, builddir, **{"BB_SERVER_TIMEOUT": "0", **(extra_env or {})})
    # The interpreter of the tests, which is also what BitBake starts its server with.
    command = [*prefix, sys.executable, str(bitbake.tree / "bin" / "bitbake"), *args]
    started = time.monotonic()
    # A file: whatever outlives the command would keep a pipe open.
    with open(log, "w+b") if log else tempfile.TemporaryFile() as out:
        client = subprocess.Popen(
            command, cwd=builddir, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        family: set[tuple[int, str]] = set()
        try:
            while client.poll() is None and time.monotonic() - started < timeout and not is_over():
                family |= _family(client.pid, lock)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    client.wait(_SAMPLE_S)
            timed_out = client.poll() is None
        finally:
            # Also on Ctrl-C in the tests.
            family |= _family(client.pid, lock)
            if client.poll() is None:
                _stop(family, client.pid, lock)
                client.wait()
        leftover = _wait_until_gone(family, lock)
        out.seek(0)
        output = out.read().decode("utf-8", "replace")
    if timed_out:
        output += f"\nkilled after {time.monotonic() - started:.0f} s\n"
    return Result(args, client.returncode, output, time.monotonic() - started, leftover)


def _stat(pid: int) -> tuple[int, str, str] | None:
    """Return parent, start time and state of a process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), fields[19], fields[0]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def _family(client: int, lock: Path) -> set[tuple[int, str]]:
    """Return the command, the server of its build directory and all their descendants.

    Each with its start time: a pid alone may be somebody else's by the time it is used.
    """
    parents, starts = {}, {}
    found = {client}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if stat is None:
            continue
        parents[pid], starts[pid] = stat[0], stat[1]
        # The server left the command's session, but it is told its lock by name.
        if str(lock) in _command(pid):
            found.add(pid)
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return {(pid, starts[pid]) for pid in found if pid in starts}


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _is_alive(process: tuple[int, str]) -> bool:
    stat = _stat(process[0])
    return stat is not None and stat[1] == process[1] and stat[2] not in "ZX"


def _kill(process: tuple[int, str]) -> None:
    if _is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process[0], signal.SIGKILL)


def _stop(family: set[tuple[int, str]], client: int, lock: Path) -> None:
    """Kill command and server; workers end their tasks when they lose the server."""
    for process in family:
        # The command may run behind a prefix, but in the session that was made for it.
        if _session(process[0]) == client or str(lock) in _command(process[0]):
            _kill(process)


def _is_free(lock: Path) -> bool:
    try:
        with open(lock, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _wait_until_gone(family: set[tuple[int, str]], lock: Path) -> tuple[str, ...]:
    """Wait for the processes and the lock; kill and name what is still there after the grace time."""
    deadline = time.monotonic() + _GRACE_S
    alive = family
    while time.monotonic() < deadline:
        alive = {process for process in alive if _is_alive(process)}
        if not alive and _is_free(lock):
            return ()
        time.sleep(0.05)
    leftover = tuple(sorted(" ".join(_command(pid)).strip() or str(pid) for pid, _ in alive))
    for process in alive:
        _kill(process)
    while any(_is_alive(process) for process in alive):
        time.sleep(0.05)
    if not _is_free(lock):
        raise RuntimeError(f"{lock} is still held after the processes {leftover} were killed.")
    return leftover
