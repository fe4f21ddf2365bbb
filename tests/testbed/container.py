# SPDX-License-Identifier: MIT
"""A memory limit as a container has it: a real memory cgroup, made for one run and removed after it.

Covers: cgroup v1 and v2, kernel OOM kills, the peak of memory that cannot be reclaimed, and a pod's way of dying:
since Kubernetes 1.28 one OOM kill takes every process of the container (memory.oom.group).
Does not cover: namespaces; what runs inside sees the host's files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from memguard.sense.kernel_files import KernelFiles
from memguard.sense.level import Level

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_SAMPLE_S = 0.05


class NoContainer(Exception):
    """No memory cgroup can be made here; the text says why and what to do."""


def entering(directory: Path) -> tuple[str, ...]:
    """Words to put before a command that shall run in the cgroup of `directory`."""
    return ("sh", "-c", f'echo $$ > "{directory}/cgroup.procs" && exec "$@"', "sh")


class Container:
    """One memory cgroup; use `container()` to make it and to be sure that it goes."""

    def __init__(self, directory: Path, is_v2: bool, dies_whole: bool) -> None:
        self.directory = directory
        self._dies_whole = dies_whole
        self.peak_bytes = 0
        self._level = Level(str(directory), is_v2, KernelFiles())
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words to put before a command that shall run inside."""
        return entering(self.directory)

    @property
    def oom_kills(self) -> int:
        """Processes the kernel has killed here for memory."""
        return self._level.oom_kills() or 0

    @property
    def used_bytes(self) -> int:
        """Memory in use now that cannot be reclaimed."""
        use = self._level.use(kernel_share=1.0)
        return use.used_bytes if use else 0

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            # cgroup v1 has no memory.oom.group: what the kernel does on v2 is done for it.
            if self._dies_whole and self.oom_kills:
                self.kill()

    def kill(self) -> None:
        """Kill every process inside."""
        with contextlib.suppress(FileNotFoundError):
            for pid in (self.directory / "cgroup.procs").read_text(encoding="utf-8").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def _remove(self) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        deadline = time.monotonic() + 20
        while True:
            self.kill()
            try:
                self.directory.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextlib.contextmanager
def container(limit_bytes: int, name: str = "memguard", dies_whole: bool = False) -> Iterator[Container]:
    """A container with a hard limit and no swap; whatever still runs inside is killed at the end.

    With `dies_whole`, the first OOM kill takes everything inside along, as in a Kubernetes pod.

    Raises NoContainer where no memory cgroup can be made.
    """
    is_v2 = (_V2 / "cgroup.controllers").exists()
    top = _V2 if is_v2 else _V1
    directory = top / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        directory.mkdir()
    except OSError as error:
        raise NoContainer(
            f"No memory cgroup can be made in {top} ({error.strerror}); run this as root on a machine or in a "
            "privileged container whose memory controller is mounted there."
        ) from None
    made = Container(directory, is_v2, dies_whole)
    try:
        try:
            (directory / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
            swap = directory / ("memory.swap.max" if is_v2 else "memory.memsw.limit_in_bytes")
            with contextlib.suppress(OSError):
                swap.write_text("0" if is_v2 else str(limit_bytes))
            if is_v2 and dies_whole:
                (directory / "memory.oom.group").write_text("1")
        except OSError as error:
            raise NoContainer(
                f"{directory} takes no memory limit ({error.strerror}); the memory controller must be enabled for the "
                "children of that directory."
            ) from None
        made._watcher.start()
        yield made
    finally:
        made._remove()
