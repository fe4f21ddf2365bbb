# SPDX-License-Identifier: MIT
"""Swap in compressed memory, on a device of its own, for one run.

Covers: making the device, and that it is gone afterwards.
Does not cover: who may swap (container).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CONTROL = Path("/sys/class/zram-control")


class NoSwap(Exception):
    """No swap can be made here; the text says why."""


@contextlib.contextmanager
def zram(size_bytes: int) -> Iterator[Path]:
    """So much swap on a zram device, which takes memory as it fills; all of it is read back and gone at the end.

    Raises NoSwap.
    """
    missing = [tool for tool in ("mkswap", "swapon", "swapoff") if not shutil.which(tool)]
    if missing:
        raise NoSwap(f"There is no {' nor '.join(missing)} here; root's PATH has them, from util-linux.")
    with contextlib.suppress(OSError):
        subprocess.run(["modprobe", "zram", "num_devices=0"], capture_output=True, check=False)
    try:
        number = int((_CONTROL / "hot_add").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise NoSwap(
            f"No zram device can be made in {_CONTROL} ({error}); root may, where the kernel has zram."
        ) from None
    device = Path(f"/dev/zram{number}")
    try:
        Path(f"/sys/block/{device.name}/disksize").write_text(str(size_bytes), encoding="ascii")
        for words in (["mkswap", "--quiet", str(device)], ["swapon", str(device)]):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NoSwap(f"{' '.join(words)} failed: {done.stderr.strip()}")
        yield device
    finally:
        subprocess.run(["swapoff", str(device)], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            Path(f"/sys/block/{device.name}/reset").write_text("1", encoding="ascii")
            (_CONTROL / "hot_remove").write_text(str(number), encoding="ascii")
