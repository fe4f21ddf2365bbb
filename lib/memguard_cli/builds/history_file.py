# SPDX-License-Identifier: MIT
"""Which file is the history, and how a command opens it.

Runs in: outside BitBake.
Covers: --history, MEMGUARD_HISTORY, the build directory; what is wrong with the file, as one sentence.
Does not cover: what is in it (memguard.record.history), the screen (screens/history).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import MOST_UNITS, Lives
from memguard.record.history.store import DEFAULT_MAX_BYTES, LEAST_MAX_BYTES, History
from memguard.settings import is_database, without_secrets
from memguard.units import format_bytes, parse_bytes
from memguard_cli.builds import configuration
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.errors import UserError

_EXAMPLE = "--history /cache/memguard/history.db"


def find(given: str | None) -> Path:
    """The file that `given` names, else the environment, else the build directory. Raises UserError."""
    if given is not None and not given.strip():
        raise UserError("--history does not name a file", _EXAMPLE)
    return (_find_beside_builds() if given is None else Path(given)).absolute()


def _find_beside_builds() -> Path:
    named = os.environ.get("MEMGUARD_HISTORY", "").strip()
    if named and not is_database(named):
        return Path(named)
    build = configuration.find()
    if build is None:
        return BuildDirectory(Path(os.environ.get("BUILDDIR") or ".") / USUAL_NAME).history
    named = _expand(build, "MEMGUARD_HISTORY")
    if named and not is_database(named):
        return build.directory / named
    return BuildDirectory(build.directory / (_expand(build, "MEMGUARD_DIR") or USUAL_NAME)).history


def _expand(build: BuildConfiguration, variable: str) -> str:
    """The value of a variable. Raises UserError where only BitBake can work it out."""
    value = build.expand(variable)
    if value is None:
        written = without_secrets(build.written(variable))
        raise UserError(
            f'{variable} = "{written}" in {build.directory}/conf is for BitBake to work out; '
            f"say it here as in {_EXAMPLE}"
        )
    return value


def find_max_bytes(given: str | None) -> int:
    """The bound that `given` says, else MEMGUARD_HISTORY_MAX as find() looks for a file. Raises UserError."""
    build = configuration.find()
    name, value = "--max", given
    if value is None:
        name, value = "MEMGUARD_HISTORY_MAX", os.environ.get("MEMGUARD_HISTORY_MAX", "").strip()
        value = value or (build.expand(name) if build else "") or ""
    if given is None and not value:
        return DEFAULT_MAX_BYTES
    try:
        size = parse_bytes(value)
    except ValueError:
        raise UserError(f"{name} {value!r}: not a size", "64M") from None
    if size < LEAST_MAX_BYTES:
        raise UserError(f"{name} {value}: at least {format_bytes(LEAST_MAX_BYTES)}", "64M")
    return size


def is_there(path: Path) -> bool:
    """Whether there is something at `path`. Raises UserError where that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return True


def require(path: Path) -> None:
    """Raises UserError where there is nothing at `path`."""
    if not is_there(path):
        raise UserError(f"{path} does not exist: no build has left a history there; name one as in {_EXAMPLE}")


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[History]:
    """The history at `path`, unchanged. Raises UserError where there is none, also after what failed within."""
    require(path)
    history = History(path, warn=_say_later, is_read_only=True)
    with contextlib.closing(history):
        yield history
        check(history)


@contextlib.contextmanager
def lives_beside(path: Path) -> Iterator[Callable[[str, str], Sequence[Life]]]:
    """Gives the lives of the compilers of a task, by recipe and task; none where there is no history to be read."""
    history = History(path, warn=_say_later, is_read_only=True)
    with contextlib.closing(history):
        yield lambda recipe, task: Lives.found(history.lives(recipe, task)).sample(MOST_UNITS)


@contextlib.contextmanager
def opened_to_write(path: Path, max_bytes: int) -> Iterator[History]:
    """The history at `path`, which is made where there is none. Raises UserError as opened_to_read().

    Where a build would move a file aside that is no database, a command more likely got the wrong name.
    """
    if is_there(path):
        with opened_to_read(path) as history:
            history.newest("any", "any")
    history = History(path, max_bytes, warn=_say_later)
    with contextlib.closing(history):
        yield history
    check(history)


def check(history: History) -> None:
    """Raises UserError with what went wrong so far, if anything did."""
    if history.failure is not None:
        raise UserError(history.failure)


def _say_later(text: str) -> None:
    """History.failure keeps it."""
