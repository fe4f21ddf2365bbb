# SPDX-License-Identifier: MIT
"""A short name for bytes of any length.

Runs in: whoever keeps a history, and the sentinel; pure, standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        # hashlib loads OpenSSL, 3 MiB more for a process that shall stay small.
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b


def digest(content: bytes) -> bytes:
    """Eight bytes that are the same for the same content, on any machine."""
    return bytes(blake2b(content, digest_size=8).digest())
