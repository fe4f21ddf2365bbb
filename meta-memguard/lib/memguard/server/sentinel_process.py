# SPDX-License-Identifier: MIT
"""Starts the sentinel and ends it.

Runs in: the BitBake server; standard library only.
Covers: a process that ends with this one, whatever happens to it; what it says at its end.
See also: sentinel.py, which is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memguard.channels.fifo import Notes
from memguard.channels.notes import FAREWELL, Orders

# Pruning a full history takes some seconds.
PATIENCE_S = 30.0

# Isolated: neither the environment nor the working directory says what is imported. Only this process holds the other
# end of its standard input.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from memguard.sentinel.process import main; sys.exit(main(*sys.argv[2:]))"
)


class Watch:
    """A sentinel that runs. Raises OSError where it cannot be started."""

    def __init__(self, orders: Orders) -> None:
        library = str(Path(__file__).resolve().parents[2])
        # Opened here and now: what the first tasks tell waits in it until the sentinel is up.
        notes = Notes(Path(orders.directory)).listen()
        self._pid = os.getpid()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, library, json.dumps(asdict(orders)), str(notes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=[notes],
                start_new_session=True,
            )
        finally:
            os.close(notes)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def has_died(self) -> bool:
        """Whether it has ended by itself."""
        return os.getpid() == self._pid and self._process.poll() is not None

    def end(self) -> dict[str, Any]:
        """End it and return what it says (see sentinel.Report); "fault" tells in words why it says nothing else."""
        if os.getpid() != self._pid:
            return {}  # a forked child: the sentinel is its parent's
        try:
            said, _ = self._process.communicate(FAREWELL, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return {"fault": f"it did not end within {PATIENCE_S:g} s"}
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                self._process.kill()
                self._process.wait()
            return {"fault": repr(error)}
        with contextlib.suppress(ValueError):
            report = json.loads(said)
            if isinstance(report, dict):
                return report
        status = self._process.returncode
        died = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return {"fault": f"it ended with {died} and said nothing"}
