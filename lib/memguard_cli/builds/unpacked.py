# SPDX-License-Identifier: MIT
"""What gzip or xz have packed, piece by piece, within bounds of memory and size.

Runs in: outside BitBake.
Covers: several packed parts one after the other; a dictionary of any size, and a few bytes that unpack to gigabytes.
Does not cover: what the text says.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from typing import IO, Any

from memguard.units import MIB, format_bytes

GZIP_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\0"
# What packing with `xz -9` makes the reader need is 65 MiB (xz(1)).
MEMORY_BYTES = 96 * MIB
# Text that packs better than this is of one line over and over.
LEAST_BYTES, MOST_TIMES = 32 * MIB, 100
_PIECE_BYTES = 1 << 16


class NotUnpacked(ValueError):
    """It cannot be unpacked; the text says why, and goes on after the file's name."""


def is_packed(head: bytes) -> bool:
    """Whether a file that begins like this is packed in a way that is known here."""
    return head.startswith((GZIP_MAGIC, XZ_MAGIC))


def unpacked(packed: io.BufferedReader[Any]) -> IO[bytes]:
    """What is packed in a file that is at its beginning, and is closed with what is given.

    Reading raises NotUnpacked for what is spoilt, needs more than 96 MiB to be unpacked, or unpacks to more than 32 MiB
    and to more than 100 times its size; OSError for what cannot be read.
    """
    return io.BufferedReader(_Bounded(packed), _PIECE_BYTES)


class _Bounded(io.RawIOBase):
    def __init__(self, packed: io.BufferedReader[Any]) -> None:
        self._packed = packed
        is_gzip = packed.peek(2).startswith(GZIP_MAGIC)
        self._source: io.RawIOBase | gzip.GzipFile = gzip.GzipFile(fileobj=packed) if is_gzip else _Xz(packed)
        self._left_bytes = max(LEAST_BYTES, MOST_TIMES * os.fstat(packed.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._source.readinto(buffer) or 0
        except gzip.BadGzipFile as error:
            raise NotUnpacked(f"cannot be unpacked: {error}") from None
        except EOFError:
            raise NotUnpacked("cannot be unpacked: it ends too early") from None
        except (lzma.LZMAError, zlib.error) as error:
            raise NotUnpacked(f"cannot be unpacked: {error}") from None
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise NotUnpacked(
                f"unpacks to more than {MOST_TIMES} times its size and {format_bytes(LEAST_BYTES)}; unpack it yourself "
                "if it is what you think"
            )
        return count

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            self._packed.close()
        super().close()


class _Xz(io.RawIOBase):
    """As lzma.LZMAFile, which knows no bound of memory."""

    def __init__(self, packed: io.BufferedReader[Any]) -> None:
        self._packed = packed
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)
        piece = b""
        while not piece and self._has_more():
            if self._unpacker.needs_input:
                more = self._packed.read(_PIECE_BYTES)
                if not more:
                    raise EOFError
                piece = self._unpacker.decompress(more, len(room))
            else:
                piece = self._unpacker.decompress(b"", len(room))
        room[: len(piece)] = piece
        return len(piece)

    def _has_more(self) -> bool:
        """Whether there is more to unpack; begins the next part where one has ended."""
        if not self._unpacker.eof:
            return True
        rest = self._unpacker.unused_data.lstrip(b"\0")  # between parts there may be zeros
        while len(rest) < len(XZ_MAGIC) and (more := self._packed.read(_PIECE_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(XZ_MAGIC):
            return False
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
        self._unpacker.decompress(rest, 0)  # kept until it is asked for
        return True
