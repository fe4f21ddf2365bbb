# SPDX-License-Identifier: MIT
"""Tasks that take a known amount of memory: memory_program.c, built once and run as leader of a session.

Covers: building, starting, waiting until all that shall be held is held, and the end of every process of it.
Does not cover: what the words of a program mean (the head of memory_program.c tells).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memguard.sense.proc_files import ProcessId, find_process

SOURCE = Path(__file__).with_name("memory_program.c")
_END_S = 20.0


@dataclass(frozen=True)
class MemoryTask:
    """A running program: `leader` is the task, `process` the same for subprocess."""

    leader: ProcessId
    process: subprocess.Popen[bytes]

    def wait_for(self, waiting: int) -> None:
        """Return once `waiting` more of its processes have come to the word "wait"; EOFError if they never will."""
        assert self.process.stdout is not None
        while waiting:
            met = os.read(self.process.stdout.fileno(), waiting)
            if not met:
                raise EOFError(f"{self.process.args!r} ended, and {waiting} processes were still to come")
            waiting -= len(met)


def build(directory: Path) -> Path:
    """The program, compiled into `directory` unless it is there. Raises FileNotFoundError without a compiler."""
    program = directory / f"memory_program-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            raise FileNotFoundError("no C compiler")
        with tempfile.TemporaryDirectory(dir=directory) as made:
            fresh = Path(made) / "program"
            subprocess.run([compiler, "-O1", "-o", str(fresh), str(SOURCE)], check=True)
            os.replace(fresh, program)
    return program


@contextlib.contextmanager
def running(
    program: Path, words: str, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[MemoryTask]:
    """A task that does what `words` say; all of its processes have ended afterwards.

    They end by themselves once stdin is closed; what does not is killed, in its session and its cgroup's end.
    """
    process = subprocess.Popen(
        [*prefix, str(program), *words.split()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        leader = find_process(process.pid)
        assert leader is not None
        yield MemoryTask(leader, process)
    finally:
        process.stdin.close()
        # Every process of it holds the writing end of its stdout: the last one has ended when that is at its end.
        os.set_blocking(process.stdout.fileno(), False)
        deadline = time.monotonic() + _END_S
        while process.stdout.read(65536) != b"" and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
