# SPDX-License-Identifier: MIT
"""Swap in a file behind a loop device, from which a container reads back slowly.

Covers: making both, the throttle (v1's blkio), and that all of it is gone afterwards.
Does not cover: slow writes: the kernel charges what it swaps out to nobody on cgroup v1. Who may swap (container).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from testbed.zram import NoSwap

_BLKIO = Path("/sys/fs/cgroup/blkio")
# Not /tmp, which may be memory itself.
_DISK = "/var/tmp"


@contextlib.contextmanager
def slow_swap(size_bytes: int, read_bytes_s: int) -> Iterator[Path]:
    """So much swap; who is in the cgroup whose directory comes back reads so much of it a second. Raises NoSwap."""
    if not all(shutil.which(tool) for tool in ("losetup", "mkswap", "swapon", "swapoff")):
        raise NoSwap("There is no losetup, mkswap, swapon or swapoff here; root's PATH has them, from util-linux.")
    group = _BLKIO / f"memguard-swap-{os.getpid()}"
    with contextlib.ExitStack() as undo:
        try:
            group.mkdir()
        except OSError as error:
            raise NoSwap(f"No blkio cgroup can be made in {_BLKIO} ({error.strerror}).") from None
        undo.callback(_remove, group)
        file = undo.enter_context(tempfile.NamedTemporaryFile(dir=_DISK, prefix="memguard-swap-"))
        os.posix_fallocate(file.fileno(), 0, size_bytes)
        device = _said("losetup", "--find", "--show", file.name)
        undo.callback(_said, "losetup", "--detach", device)
        number = Path(device).stat().st_rdev
        limit = f"{os.major(number)}:{os.minor(number)} {read_bytes_s}"
        (group / "blkio.throttle.read_bps_device").write_text(limit, encoding="ascii")
        _said("mkswap", "--quiet", device)
        _said("swapon", device)
        undo.callback(subprocess.run, ["swapoff", device], capture_output=True, check=False)
        yield group


def _said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSwap(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _remove(group: Path) -> None:
    """Remove the cgroup once the last process in it has ended."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
