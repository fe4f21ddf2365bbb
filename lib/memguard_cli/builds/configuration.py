# SPDX-License-Identifier: MIT
"""What the configuration files of a build directory say, as far as that shows without BitBake.

Runs in: outside BitBake.
Covers: plain assignments in conf/site.conf, conf/auto.conf and conf/local.conf, also those to `:pn-NAME`, in the order
bitbake.conf reads them.
Does not cover: included files, layers, distributions, values that BitBake works out: those are None here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from memguard.act.job_variables import jobs_in

_FILES = ("site.conf", "auto.conf", "local.conf")
_ASSIGNMENT = re.compile(
    # The name of a recipe may end in "+", so the shortest that an operator follows is meant, as in BitBake.
    r"""^\s*(?:export\s+)?(?P<name>[A-Za-z0-9_]+(?::pn-[A-Za-z0-9_.+~-]+?)?)(?P<append>:append)?\s*"""
    r"""(?P<operator>\?\?=|\?=|:=|\+=|\.=|=)\s*"""
    r"""(?P<quote>["'])(?P<value>.*)(?P=quote)\s*$"""
)
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
_DEEPEST_REFERENCE = 8
_LONGEST_VALUE = 4096


@dataclass(frozen=True)
class BuildConfiguration:
    """A build directory and its variables as written, unexpanded."""

    directory: Path
    values: dict[str, str]

    @property
    def inherits_memguard(self) -> bool:
        """Whether one of the files switches memguard on; kas and distributions may do so elsewhere."""
        return "memguard" in f"{self.values.get('INHERIT', '')} {self.values.get('USER_CLASSES', '')}".split()

    @property
    def threads(self) -> int | None:
        """BB_NUMBER_THREADS, None where it is not a plain number here."""
        value = self.values.get("BB_NUMBER_THREADS", "").strip()
        return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else None

    @property
    def jobs(self) -> int | None:
        """The jobs of PARALLEL_MAKE, None where they are not a plain number here."""
        return jobs_in(self.values.get("PARALLEL_MAKE", ""))

    @property
    def tmpdir(self) -> Path:
        """TMPDIR, or OE-Core's default for it where it is not written here or cannot be worked out."""
        value = self.values.get("TMPDIR", "").replace("${TOPDIR}", str(self.directory))
        return self.directory / "tmp" if not value or "$" in value else self.directory / value

    def expand(self, name: str) -> str | None:
        """The value of a variable, "" where it is not set here, None where it holds what only BitBake can work out."""
        known = {**self.values, "TOPDIR": str(self.directory), "HOME": os.environ.get("HOME", "${HOME}")}
        value = self.values.get(name, "")
        for _ in range(_DEEPEST_REFERENCE):
            value = _REFERENCE.sub(lambda found: known.get(found[1], found[0]), value)[:_LONGEST_VALUE]
        return None if "${" in value else value.strip()


def find() -> BuildConfiguration | None:
    """The configuration of the build directory that $BUILDDIR names, else of this directory; None where it is none."""
    return read(Path(os.environ.get("BUILDDIR") or ".")) or read(Path())


def read(directory: Path) -> BuildConfiguration | None:
    """The configuration of a build directory, None where `directory` is none (it has no conf/local.conf)."""
    if not _is_file(directory / "conf" / "local.conf"):
        return None
    values: dict[str, str] = {}
    weak: dict[str, str] = {}
    for name in _FILES:
        for line in _lines(directory / "conf" / name):
            found = _ASSIGNMENT.match(line)
            if not found:
                continue
            variable, operator, value = found["name"], found["operator"], found["value"]
            if found["append"] or operator in ("+=", ".="):
                values[variable] = f"{values.get(variable, '')}{' ' if operator == '+=' else ''}{value}"
            elif operator == "??=":
                weak[variable] = value
            elif operator != "?=" or variable not in values:
                values[variable] = value
    return BuildConfiguration(directory.resolve(), {**weak, **values})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a directory that may not be entered, a name that is too long
        return False


def _lines(path: Path) -> list[str]:
    """The logical lines of a file, none of one that cannot be read."""
    if not _is_file(path):
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
