# SPDX-License-Identifier: MIT
"""Work that waits for somebody else, given up when that somebody says nothing for too long.

Runs in: outside BitBake.
Covers: connections that hang where no timeout of a library reaches: name servers, a server that accepts and is silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_S = 0.05


class SilenceError(Exception):
    """Nothing was heard for too long."""


def run_with_patience(work: Callable[[Callable[[], None]], T], silence_s: float) -> T:
    """What `work` returns or raises, on a thread of its own. It calls what it is given for each sign of life.

    Raises SilenceError when there has been none for `silence_s` seconds; the thread is then left alone, and ends with
    the process.
    """
    heard_s = [time.monotonic()]
    result: list[Any] = []
    failure: list[BaseException] = []

    def alive() -> None:
        heard_s[0] = time.monotonic()

    def run() -> None:
        try:
            result.append(work(alive))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_S)
        if thread.is_alive() and time.monotonic() - heard_s[0] > silence_s:
            raise SilenceError
    if failure:
        raise failure[0]
    return result[0]  # type: ignore[no-any-return]
