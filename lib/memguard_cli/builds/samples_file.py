# SPDX-License-Identifier: MIT
"""What a history knows in and out: lines of JSON, directories of buildstats.

Runs in: outside BitBake.
Covers: the place of each line that is no sample; files that are databases; output that is whole or not there.
Does not cover: the fields of a sample (memguard.record.history.samples), the lives of jobs (lives_lines), files of
buildstats (buildstats, buildstats_json).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from memguard.record.history.samples import BadSample, TaskLives, parse_sample
from memguard.record.history.store import Counts, History
from memguard.units import MIB, format_bytes
from memguard_cli.builds import history_file
from memguard_cli.builds.buildstats import NoBuildstats, import_buildstats
from memguard_cli.builds.buildstats_json import LARGEST_BYTES, is_document, read_document
from memguard_cli.builds.lives_lines import is_lives, parse_lives, take_lives
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.errors import UserError

# The lives of a task with the most jobs that are kept, in base64; a sample has seven names of 500 characters at most.
LONGEST_LINE_BYTES = 2 * MIB


@dataclass(frozen=True)
class Imported:
    """What became of a file: its samples, and of how many tasks it had the lives of jobs, and had any that were new."""

    samples: Counts = field(default_factory=Counts)
    lives: int = 0
    new_lives: int = 0

    def __add__(self, other: Imported) -> Imported:
        return Imported(self.samples + other.samples, self.lives + other.lives, self.new_lives + other.new_lives)

    @property
    def is_nothing_but_bad(self) -> bool:
        """Whether there was something, and none of it was a sample or lives; those that are known are good ones."""
        return bool(self.samples.bad and not self.samples.added + self.samples.known + self.lives)


def write_lines(objects: Iterable[dict[str, Any]], output: str, source: History) -> None:
    """Write what `source` gave as lines of JSON to a file, or for "-" to standard output.

    Raises UserError for a file that cannot be written, and where the history cannot be read to its end.
    """
    lines = (json.dumps(one) + "\n" for one in objects)
    if output == "-":
        sys.stdout.writelines(lines)
        return

    def checked() -> Iterator[str]:
        yield from lines
        history_file.check(source)

    path = Path(output)
    try:
        if path.exists() and source.path.exists() and path.samefile(source.path):
            raise UserError(f"{path} is the history itself", "-o samples.jsonl")
        write_whole(path, checked())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def import_from(target: History, source: str, complain: Callable[[str], None]) -> Imported:
    """Take in a file, "-" (standard input), or a directory of buildstats.

    `complain` takes a sentence for each thing in it that is no sample. Raises UserError for what is none as a whole.
    """
    path = Path(source)
    bad = 0
    lives: list[TaskLives] = []

    def count(text: str) -> None:
        nonlocal bad
        bad += 1
        complain(text)

    try:
        if source != "-" and path.is_dir():
            counts = import_buildstats(target, path, count)
        else:
            with _opened(source) as lines:
                name = "standard input" if source == "-" else source
                counts = target.import_samples(_read_lines(lines, name, count, lives.append))
    except NoBuildstats as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from None
    return Imported(Counts(counts.added, counts.known, bad), len(lives), take_lives(target, lives))


@contextlib.contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        yield file


def _read_lines(
    lines: IO[bytes], name: str, complain: Callable[[str], None], take: Callable[[TaskLives], None]
) -> Iterator[dict[str, Any]]:
    """The samples in lines of JSON; `take` takes lives.

    `complain` takes a sentence, with `name` and the line's number, for each other.
    """
    number = 0
    while line := lines.readline(LONGEST_LINE_BYTES):
        number += 1
        if number == 1:
            if line.startswith(b"SQLite format 3\0"):
                raise UserError(f"{name} is a database; memguard history merge {name} takes it in")
            line = line.removeprefix(b"\xef\xbb\xbf")
            if is_document(line):
                yield from read_document(line + lines.read(LARGEST_BYTES), name, complain)
                return
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := lines.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            complain(f"{name}:{number}: a line of more than {format_bytes(LONGEST_LINE_BYTES)} is not a sample")
        elif line.strip():
            try:
                sample = json.loads(line)
                if is_lives(sample):
                    take(parse_lives(sample))
                    continue
                parse_sample(sample)
            except BadSample as error:
                complain(f"{name}:{number}: {error}")
            except (ValueError, RecursionError):  # also for text that is not UTF-8, and for numbers without end
                complain(f"{name}:{number}: is not JSON")
            else:
                yield sample
