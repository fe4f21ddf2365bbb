# SPDX-License-Identifier: MIT
"""Does something again and again while a context lasts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Callable


@contextlib.contextmanager
def repeating(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `act` in a thread, first after `every_s` seconds; no call goes on once the context has ended."""
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(every_s):
            act()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
