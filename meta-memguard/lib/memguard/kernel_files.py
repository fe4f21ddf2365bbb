# SPDX-License-Identifier: MIT
"""Small files of the kernel -> numbers by name; what could not be read is remembered, never raised.

Runs in: the BitBake server, the sentinel and the command; standard library only.
Covers: missing, forbidden, empty, binary, truncated and huge files.
Does not cover: what the numbers mean (cgroups, sense).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

_NUMBER_BYTES = 64
_TEXT_BYTES = 1 << 20
# Not there: nothing to tell. The last one is what a cgroup answers that has been removed.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV}
# Non-blocking, so that a FIFO in a tree that somebody sends in does not hang its reader.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class KernelFiles:
    """Reads files whole; `faults` tells by path, in words, what is wrong with those that could not be used."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def text(self, path: str) -> str:
        """The text of a file, "" where it is missing or cannot be read; bytes that are no text are replaced."""
        return self._read(path, _TEXT_BYTES).decode("utf-8", "replace")

    def number(self, path: str) -> int | None:
        """The number that is all of a file, None where it is missing, "max", or anything else."""
        content = self._read(path, _NUMBER_BYTES)
        number = parse_number(content.strip())
        if number is None and content.strip() not in (b"max", b"-1") and (content or self._is_there(path)):
            self.blame(path, "holds no number" if content else "is empty")
        return number

    def keys(self, path: str, names: Iterable[str], needed: Iterable[str] = ()) -> dict[str, int]:
        """Those of `names` that a flat keyed file ("anon 4096") tells, by name.

        Where one of `needed` is missing in a file that is there, it is told among the faults.
        """
        return self._find(path, " ", names, needed)

    def sizes(self, path: str, names: Iterable[str], needed: Iterable[str] = ()) -> dict[str, int]:
        """The sizes that a file like /proc/meminfo ("MemTotal:  16 kB") tells, in bytes; as keys() otherwise."""
        return self._find(path, ":", names, needed)

    def _find(self, path: str, separator: str, names: Iterable[str], needed: Iterable[str]) -> dict[str, int]:
        # These files have 50 lines and more, are read several times a second, and few of the lines are asked for.
        content = self._read(path, _TEXT_BYTES).decode("ascii", "replace")
        if not content and self._is_there(path):
            self.blame(path, "is empty")
        if not content:
            return {}
        if not content.endswith("\n"):
            self.blame(path, "ends in the middle of a line")
        content = f"\n{content}\n"
        found: dict[str, int] = {}
        for name in names:
            start = content.find(f"\n{name}{separator}")
            if start < 0:
                continue
            start += len(name) + 2
            value = content[start : content.find("\n", start)].strip()
            kib = value.endswith(" kB")
            number = parse_number(value[:-3] if kib else value)
            if number is None:
                self.blame(path, f"has no number for {name}")
            else:
                found[name] = number * 1024 if kib else number
        for name in needed:
            if name not in found:
                self.blame(path, f"has no {name}")
        return found

    def _read(self, path: str, most: int) -> bytes:
        try:
            file = os.open(path, _FLAGS)
        except (OSError, ValueError) as error:
            self._blame_error(path, error)
            return b""
        try:
            content = os.read(file, most)
            if len(content) < most and most > _NUMBER_BYTES:
                # A file of many records comes a page at a time.
                while more := os.read(file, most):
                    content += more
                    if len(content) >= most:
                        break
        except OSError as error:
            self._blame_error(path, error)
            return b""
        finally:
            os.close(file)
        if len(content) >= most:
            self.blame(path, "is far longer than such a file is")
            # A number that goes on is none; of lines, the whole ones are good.
            return b"" if most == _NUMBER_BYTES else content[: content.rfind(b"\n") + 1]
        return content

    def _is_there(self, path: str) -> bool:
        return path not in self.faults and os.path.exists(path)

    def blame(self, path: str, what: str) -> None:
        """Remember what is wrong with a file; the first finding stands."""
        self.faults.setdefault(path, what)

    def _blame_error(self, path: str, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno in _ABSENT:
            return
        self.blame(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def parse_number(text: bytes | str) -> int | None:
    """A counter of the kernel, at most 64 bits; None for any other text."""
    return int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else None
