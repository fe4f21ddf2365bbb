# SPDX-License-Identifier: MIT
"""Configuration files, read line by line into a Datastore as BitBake reads them.

Runs in: outside BitBake.
Covers: assignments, include, require, include_all, addfragments, unset; what BitBake would refuse, with file and line.
Does not cover: which files there are (configuration), what variables come to (datastore); classes and recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from memguard_cli.builds.datastore import Datastore
from memguard_cli.builds.operators import CannotTell, Mistake
from memguard_cli.builds.plain_file import is_there

_ASSIGNMENT = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z0-9\-_+.${}/~:]+?)(?P<flag>\[[^\]]+\])?\s*"""
    r"""(?P<operator>\?\?=|\?=|:=|\+=|=\+|\.=|=\.|=)\s*"""
    r"""(?P<quote>["'])(?P<value>.*)(?P=quote)"""
)
# A value with one quote too many, which BitBake refuses.
_THREE_QUOTES = re.compile(r"""'[^']*'[^']*'|"[^"]*"[^"]*\"""")
_STATEMENT = re.compile(
    r"(?P<word>include_all|include|require|addfragments|addpylib|unset|export|inherit)\s+(?P<rest>\S.*)"
)
_DEEPEST = 30
_LARGEST_FILE_BYTES = 1 << 22
_MOST_FILES = 2000


class ConfFiles:
    """Files on their way into a Datastore. faults: what BitBake would refuse, each with its file and line.

    knows_layers: whether BBPATH is all that BitBake would have, so that what is not found is not there.
    """

    def __init__(self, store: Datastore) -> None:
        self.store = store
        self.knows_layers = False
        self.faults: list[str] = []
        self.files: list[Path] = []

    def read(self, path: Path, depth: int = 0) -> bool:
        """Take in one file; False where it is not there."""
        if not is_there(path):
            return False
        if depth > _DEEPEST or len(self.files) > _MOST_FILES:
            self.faults.append(f"{path}: too many files include each other")
            return True
        try:
            if path.stat().st_size > _LARGEST_FILE_BYTES:
                return False
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        self.files.append(path)
        self.read_text(text, path, depth)
        return True

    def read_text(self, text: str, path: Path, depth: int = 0) -> None:
        """Take in the lines of a file."""
        for number, line in _logical_lines(text):
            if not self._assign(line, path) and not self._perform(line, path, number, depth):
                self.faults.append(f"{path}:{number}: BitBake cannot parse {line.strip()[:60]!r}")

    def find(self, name: str, beside: Path | None = None) -> Path | None:
        """A file by BBPATH, None where it is not there."""
        if Path(name).is_absolute():
            return Path(name) if is_there(Path(name)) else None
        places = [*([str(beside.parent)] if beside else []), *(self._text("BBPATH").split(":"))]
        return next((Path(place) / name for place in places if place and is_there(Path(place) / name)), None)

    def _assign(self, line: str, path: Path) -> bool:
        found = _ASSIGNMENT.fullmatch(line)
        if not found or _THREE_QUOTES.fullmatch(line[found.start("quote") :]):
            return False
        if found["flag"] is None:
            self.store.assign(found["name"], found["operator"], found["value"], str(path))
        return True

    def _perform(self, line: str, path: Path, number: int, depth: int) -> bool:
        found = _STATEMENT.match(line)
        if not found:
            return False
        word, rest = found["word"], found["rest"]
        if word == "unset":
            self.store.unset(rest.strip())
        elif word == "addfragments":
            self._add_fragments(path, number, depth)
        elif word in ("include", "require", "include_all"):
            self._include(word, rest, path, number, depth)
        return True

    def _include(self, word: str, rest: str, path: Path, number: int, depth: int) -> None:
        names = self._expanded(rest)
        if names is None:
            self.store.leave_gap(f"what {path}:{number} includes ({rest}) cannot be worked out here")
            return
        for name in names.split():
            if "${" in name and not self.knows_layers:
                continue  # conf/machine/${MACHINE}.conf without a machine
            found = self.find(name, path)
            if found is None and word == "require":
                self._miss(name, path, number)
            elif found is not None and name != str(path):
                self.read(found, depth + 1)

    def _miss(self, name: str, path: Path, number: int) -> None:
        if self.knows_layers or Path(name).is_absolute():
            self.faults.append(f"{path}:{number}: it requires {name}, which is not there")
        self.store.leave_gap(f"{path}:{number} requires {name}, which is not here")

    def _add_fragments(self, path: Path, number: int, depth: int) -> None:
        """What bitbake-config-build has enabled: LAYER/NAME is a file of that layer, machine/NAME sets MACHINE."""
        builtin = dict(pair.split(":", 1) for pair in self._text("OE_FRAGMENTS_BUILTIN").split() if ":" in pair)
        for fragment in self._text("OE_FRAGMENTS").split():
            layer, _, name = fragment.partition("/")
            if layer in builtin:
                self.store.assign(builtin[layer], "=", name, str(path))
                continue
            found = self.find(f"{self._text('OE_FRAGMENTS_PREFIX') or 'conf/fragments'}/{name}.conf")
            if found is not None:
                self.read(found, depth + 1)
            else:
                self._miss(f"the fragment {fragment}", path, number)

    def _text(self, name: str) -> str:
        try:
            return self.store.get(name) or ""
        except (CannotTell, Mistake):
            return ""

    def _expanded(self, text: str) -> str | None:
        try:
            return self.store.expand(text)
        except (CannotTell, Mistake):
            return None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, those that end in a backslash joined with the next, each with its number."""
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        line = line.rstrip()
        while line.endswith("\\"):
            line = line[:-1] + next(lines, (0, ""))[1].rstrip()
        if line.strip() and not line.startswith("#"):
            yield number, line
