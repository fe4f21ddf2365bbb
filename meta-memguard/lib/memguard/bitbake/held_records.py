# SPDX-License-Identifier: MIT
"""BitBake adapter inside a task: the log records of one run, held back until it is known whether the task runs again.

Runs in: the task's own child process; knows BitBake's logger and its handlers.
Covers: keeping records from the UI and from the exit status, and letting them through unchanged and in order.
Does not cover: whether it runs again (decide/run_again.py); when they are held and shown (task_again.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os

# Records beyond this are not held: they are output, line by line, after an error that did not end the task.
_HELD_MOST = 10_000
# bb.erroronce
_ERROR_LEVEL = logging.ERROR - 1


class HeldRecords:
    """Log records of this process that wait, from the first error on and in order, for what becomes of the run.

    The handler that writes the task's log gets them at once; so do all handlers in a process forked off this one.
    """

    def __init__(self, log: str) -> None:
        self._log = log
        self._pid = os.getpid()
        self._handlers: list[logging.Handler] = []
        self._held: list[tuple[logging.Handler, logging.LogRecord]] = []

    def hold(self) -> None:
        """Hold from here on what BitBake's logger would pass on to others."""
        self._handlers = [handler for handler in logging.getLogger("BitBake").handlers if not self._is_log(handler)]
        for handler in self._handlers:
            # Neither a filter nor a level would do: BitBake's own handler for its server overrides the former.
            handler.handle = functools.partial(self._take, handler)  # type: ignore[method-assign]

    def let_through(self) -> None:
        """Hold no longer; pass on what was held."""
        self._release(logging.CRITICAL + 1)

    def drop(self) -> None:
        """Hold no longer; pass on what was held but errors."""
        self._release(_ERROR_LEVEL)

    def _release(self, below: int) -> None:
        for handler in self._handlers:
            handler.__dict__.pop("handle", None)
        held, self._handlers, self._held = self._held, [], []
        for handler, record in held:
            if record.levelno < below:
                handler.handle(record)

    def _take(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        """In place of handle(): whoever logs gets no error of ours."""
        with contextlib.suppress(Exception):
            if self._waits(record):
                self._held.append((handler, record))
                if len(self._held) > _HELD_MOST:
                    self.let_through()
                return True
        return bool(type(handler).handle(handler, record))

    def _waits(self, record: logging.LogRecord) -> bool:
        return os.getpid() == self._pid and (bool(self._held) or record.levelno >= _ERROR_LEVEL)

    def _is_log(self, handler: logging.Handler) -> bool:
        return getattr(getattr(handler, "stream", None), "name", None) == self._log
