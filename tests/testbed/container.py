# SPDX-License-Identifier: MIT
"""A memory limit as a container has it: a real memory cgroup, made for one run and removed after it.

Covers: cgroup v1 and v2, kernel OOM kills, the peak of memory that cannot be reclaimed, CPU seconds, and a pod's way of
dying: since Kubernetes 1.28 one OOM kill takes every process of the container (memory.oom.group).
Does not cover: namespaces; what runs inside sees the host's files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from memguard.sense.kernel_files import KernelFiles
from memguard.sense.level import Level

_V1 = Path("/sys/fs/cgroup/memory")
_V1_CPU = Path("/sys/fs/cgroup/cpuacct")
_V2 = Path("/sys/fs/cgroup")
_SAMPLE_S = 0.05


class NoContainer(Exception):
    """No memory cgroup can be made here; the text says why and what to do."""


def entering(*directories: Path) -> tuple[str, ...]:
    """Words to put before a command that shall run in these cgroups, one of each hierarchy."""
    moves = "".join(f'echo $$ > "{directory}/cgroup.procs" && ' for directory in directories)
    return ("sh", "-c", f'{moves}exec "$@"', "sh")


def cpu_s_of(directory: Path) -> float:
    """CPU seconds of all that ever ran in this cgroup, of v1's cpuacct or of v2."""
    v1 = directory / "cpuacct.usage"
    if v1.exists():
        return int(v1.read_text(encoding="ascii")) / 1e9
    words = (directory / "cpu.stat").read_text(encoding="ascii").split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


class Container:
    """One memory cgroup; use `container()` to make it and to be sure that it goes.

    directories: the memory cgroup, and where v1 counts CPU time, the cpuacct cgroup.
    peak_bytes, peak_process_bytes: what cannot be reclaimed at its peak, with and without the kernel's own memory.
    """

    def __init__(self, directories: Sequence[Path], is_v2: bool, dies_whole: bool) -> None:
        self.directory = directory = directories[0]
        self._directories = directories
        self._dies_whole = dies_whole
        self.peak_bytes = self.peak_process_bytes = 0
        self._level = Level(str(directory), is_v2, KernelFiles())
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words to put before a command that shall run inside."""
        return entering(*self._directories)

    @property
    def pids(self) -> list[int]:
        """The processes inside."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in (self.directory / "cgroup.procs").read_text(encoding="ascii").split()]
        return []

    @property
    def oom_kills(self) -> int:
        """Processes the kernel has killed here for memory."""
        return self._level.oom_kills() or 0

    @property
    def used_bytes(self) -> int:
        """Memory in use now that cannot be reclaimed."""
        use = self._level.use(kernel_share=1.0)
        return use.used_bytes if use else 0

    @property
    def swapped_bytes(self) -> int:
        """What lies in swap now."""
        v2 = self.directory / "memory.swap.current"
        if v2.exists():
            return int(v2.read_text(encoding="ascii"))
        use = self._level.use(kernel_share=1.0)
        return (use.swap_bytes or 0) if use else 0

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all that ran inside; on v1 only of a container that was made to count them."""
        return cpu_s_of(self._directories[-1])

    def resize(self, limit_bytes: int) -> None:
        """Give it another limit, as a kubelet does that resizes a container in place."""
        # On v1 the limit of memory and swap together may not be the lower one at any moment.
        swap = self.directory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(str(limit_bytes))
        v2 = self.directory / "memory.max"
        (v2 if v2.exists() else self.directory / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait for the last process inside to end; False where one is left after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while (self.directory / "cgroup.procs").read_text(encoding="utf-8").strip():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            use = self._level.use(kernel_share=1.0)
            if use is not None:
                self.peak_bytes = max(self.peak_bytes, use.used_bytes)
                self.peak_process_bytes = max(self.peak_process_bytes, use.anon_bytes + use.shmem_bytes)
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
        left = list(self._directories)
        while left:
            self.kill()
            try:
                left[0].rmdir()
                del left[0]
            except FileNotFoundError:
                del left[0]
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def clean_up_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does: what it has made goes with it."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


@contextlib.contextmanager
def container(
    limit_bytes: int | None,
    name: str = "memguard",
    dies_whole: bool = False,
    counts_cpu: bool = False,
    swap_bytes: int = 0,
) -> Iterator[Container]:
    """A container with a hard limit; whatever still runs inside is killed at the end.

    limit_bytes: None for no limit of its own.
    swap_bytes:  the swap that it may use, of what the machine has.
    dies_whole: the first OOM kill takes everything inside along, as in a Kubernetes pod.
    counts_cpu: `cpu_s` is wanted, for which v1 needs a second cgroup.

    Raises NoContainer where no memory cgroup can be made.
    """
    is_v2 = (_V2 / "cgroup.controllers").exists()
    top = _V2 if is_v2 else _V1
    directory = top / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    _make(directory, "memory")
    directories = [directory]
    if counts_cpu and not is_v2:
        directories.append(_V1_CPU / directory.name)
        try:
            _make(directories[1], "cpuacct")
        except NoContainer:
            directory.rmdir()
            raise
    made = Container(directories, is_v2, dies_whole)
    try:
        try:
            if limit_bytes is not None:
                (directory / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
                swap = directory / ("memory.swap.max" if is_v2 else "memory.memsw.limit_in_bytes")
                with contextlib.suppress(OSError):
                    swap.write_text(str(swap_bytes if is_v2 else limit_bytes + swap_bytes))
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


def _make(directory: Path, controller: str) -> None:
    """Make one cgroup. Raises NoContainer."""
    try:
        directory.mkdir()
    except OSError as error:
        raise NoContainer(
            f"No {controller} cgroup can be made in {directory.parent} ({error.strerror}); run this as root on a "
            f"machine or in a privileged container whose {controller} controller is mounted there."
        ) from None
