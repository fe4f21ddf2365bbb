# SPDX-License-Identifier: MIT
"""Small files of the kernel -> numbers by name; what could not be read is remembered, never raised.

Runs in: the BitBake server, the sentinel and the command; standard library only.
Covers: missing, forbidden, empty, binary, truncated and huge files.
Does not cover: what the numbers mean (level, container).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

_NUMBER_BYTES = 64
_TEXT_BYTES = 1 << 20
# Not there, which is no fault. ENODEV is what a cgroup answers that has been removed, EOPNOTSUPP a file of what is
# switched off, as pressure is by default on some distributions.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EOPNOTSUPP}
# Non-blocking, so that a FIFO in a tree that somebody sends in does not hang its reader.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class KernelFiles:
    """Reads files whole; `faults` says by path, in words, what is wrong with those that could not be used.

    keeps_open: read numbers through descriptors that stay open, for the files of a running kernel that are read again
                and again: finding a file by its name costs more than reading it. Texts are read once: the search for
                a process goes through thousands of them, and one of /proc/self would be the parent's after a fork.
    """

    def __init__(self, keeps_open: bool = False) -> None:
        self.faults: dict[str, str] = {}
        self._keeps_open = keeps_open
        self._open: dict[str, int] = {}

    def close(self) -> None:
        """Close what is kept open; the next reading opens it again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def text(self, path: str) -> str:
        """The text of a file, "" where it is missing or cannot be read; bytes that are no text are replaced."""
        return self._read(path, _TEXT_BYTES, keeps_open=False).decode("utf-8", "replace")

    def number(self, path: str) -> int | None:
        """The number that is all of a file, None where it is missing, "max", or anything else."""
        content = self._read(path, _NUMBER_BYTES)
        number = parse_number(content.strip())
        if number is None and content.strip() not in (b"max", b"-1") and (content or self._is_there(path)):
            self.blame(path, "holds no number" if content else "is empty")
        return number

    def keys(self, path: str, names: Iterable[str], needed: Iterable[str] = ()) -> dict[str, int]:
        """Those of `names` that a flat keyed file ("anon 4096") has, by name.

        Where one of `needed` is missing in a file that is there, that is noted among the faults.
        """
        return self._numbers(path, self._lines(path, ""), names, needed)

    def sizes(self, path: str, names: Iterable[str], needed: Iterable[str] = ()) -> dict[str, int]:
        """The sizes that a file like /proc/meminfo ("MemTotal:  16 kB") has, in bytes; as keys() otherwise."""
        kib = self._numbers(path, self._lines(path, " kB"), (f"{name}:" for name in names), (f"{n}:" for n in needed))
        return {name[:-1]: 1024 * size for name, size in kib.items()}

    def _numbers(self, path: str, lines: dict[str, str], names: Iterable[str], needed: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in names:
            if name in lines:
                number = parse_number(lines[name])
                if number is None:
                    self.blame(path, f"has no number for {name.rstrip(':')}")
                else:
                    found[name] = number
        for name in needed:
            if name not in found and lines:
                self.blame(path, f"has no {name.rstrip(':')}")
        return found

    def _lines(self, path: str, unit: str) -> dict[str, str]:
        """First and second word of each line that has two, `unit` left out."""
        content = self._read(path, _TEXT_BYTES).decode("ascii", "replace")
        if not content.endswith("\n") and (content or self._is_there(path)):
            self.blame(path, "ends in the middle of a line" if content else "is empty")
        words = content.replace(f"{unit}\n", "\n").split()
        if len(words) == 2 * content.count("\n"):
            # What the kernel writes; taking it apart line by line costs three times as much.
            return dict(zip(words[::2], words[1::2]))
        pairs = (line.split() for line in content.replace(f"{unit}\n", "\n").splitlines())
        lines = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        if not lines:
            self.blame(path, "has no lines of a name and a number")
        return lines

    def _read(self, path: str, most: int, keeps_open: bool = True) -> bytes:
        try:
            keeps_open = keeps_open and self._keeps_open
            content = self._read_again(path, most) if keeps_open else _read_once(path, most)
        except (OSError, ValueError) as error:
            self._blame_error(path, error)
            return b""
        if len(content) >= most:
            self.blame(path, "is far longer than such a file should be")
            # A number that goes on is none; of lines, the whole ones are good.
            return b"" if most == _NUMBER_BYTES else content[: content.rfind(b"\n") + 1]
        return content

    def _read_again(self, path: str, most: int) -> bytes:
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = os.open(path, _FLAGS)
        try:
            content = os.pread(file, most, 0)
            # A file of many records comes a page at a time.
            while most > _NUMBER_BYTES and 0 < len(content) < most:
                more = os.pread(file, most, len(content))
                if not more:
                    break
                content += more
            return content
        except OSError:
            # What is there under this name now may be another file.
            os.close(self._open.pop(path))
            raise

    def _is_there(self, path: str) -> bool:
        return path not in self.faults and os.path.exists(path)

    def blame(self, path: str, what: str) -> None:
        """Remember what is wrong with a file; the first finding stands."""
        self.faults.setdefault(path, what)

    def _blame_error(self, path: str, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno in _ABSENT:
            return
        self.blame(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _read_once(path: str, most: int) -> bytes:
    file = os.open(path, _FLAGS)
    try:
        content = os.read(file, most)
        while most > _NUMBER_BYTES and 0 < len(content) < most:
            more = os.read(file, most)
            if not more:
                break
            content += more
        return content
    finally:
        os.close(file)


def parse_number(text: bytes | str) -> int | None:
    """A counter of the kernel, at most 64 bits; None for any other text."""
    return int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else None
