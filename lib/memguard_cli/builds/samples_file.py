# SPDX-License-Identifier: MIT
"""Samples of a history in and out: lines of JSON, directories of buildstats.

Runs in: outside BitBake.
Covers: the place of each line that is no sample; files that are databases; output that is whole or not there.
Does not cover: the fields of a sample (memguard.record.history.samples), files of buildstats (buildstats).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from memguard.record.history.samples import BadSample, parse_sample
from memguard.record.history.store import Counts, History
from memguard.units import KIB, format_bytes
from memguard_cli.builds import history_file
from memguard_cli.builds.buildstats import NoBuildstats, import_buildstats
from memguard_cli.builds.plain_file import write_whole
from memguard_cli.errors import UserError

# A sample has names of 500 characters at most, six of them.
LONGEST_LINE_BYTES = 64 * KIB


def write_samples(samples: Iterable[dict[str, Any]], output: str, source: History) -> None:
    """Write samples of `source` as lines of JSON to a file, or for "-" to standard output.

    Raises UserError for a file that cannot be written, and where the history cannot be read to its end.
    """
    lines = (json.dumps(sample) + "\n" for sample in samples)
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


def import_samples(target: History, source: str, complain: Callable[[str], None]) -> Counts:
    """Take in a file, "-" (standard input), or a directory of buildstats.

    `complain` takes a sentence for each thing in it that is no sample. Raises UserError for what is none as a whole.
    """
    path = Path(source)
    bad = 0

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
                counts = target.import_samples(_read_lines(lines, name, count))
    except NoBuildstats as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from None
    return Counts(counts.added, counts.known, bad)


@contextlib.contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        yield file


def _read_lines(lines: IO[bytes], name: str, complain: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The samples in lines of JSON. `complain` takes a sentence, with `name` and the line's number, for each other."""
    number = 0
    while line := lines.readline(LONGEST_LINE_BYTES):
        number += 1
        if number == 1:
            if line.startswith(b"SQLite format 3\0"):
                raise UserError(f"{name} is a database; memguard history merge {name} takes it in")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := lines.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            complain(f"{name}:{number}: a line of more than {format_bytes(LONGEST_LINE_BYTES)} is no sample")
        elif line.strip():
            try:
                sample = json.loads(line)
                parse_sample(sample)
            except BadSample as error:
                complain(f"{name}:{number}: {error}")
            except (ValueError, RecursionError):  # also for text that is not UTF-8, and for numbers without end
                complain(f"{name}:{number}: is no JSON")
            else:
                yield sample
