# SPDX-License-Identifier: MIT
"""Containers as trees of files: what many of them share lies once in `fixtures/cgroup/_base`, each case has the rest.

A case is a directory with `expected.json` and the files in which it differs. In that JSON `parts` says which directory
of `_base` lies at which place of the tree; the files of the case are laid over it, and those in `absent` are taken
away, since no file and an empty one are two things.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cgroup"
BASE = FIXTURES / "_base"
LAYOUT = {path.parent.name: json.loads(path.read_text()) for path in sorted(FIXTURES.glob("*/expected.json"))}
# What is to be read of each case, with the place it comes from and who says that it looks like that.
EXPECTED: dict[str, dict[str, Any]] = {
    name: {key: value for key, value in case.items() if key not in ("parts", "absent")} for name, case in LAYOUT.items()
}


class Trees:
    """The trees of all cases, each written when it is first asked for and gone when the tests end.

    `CASES / name` is the tree of one case. A test that changes it works on a copy.
    """

    @functools.cached_property
    def _directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="memguard-trees-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)  # what runs as another user reads it, too
        return directory

    def __truediv__(self, name: str) -> Path:
        root = self._directory / name
        if not root.exists():
            for path, content in files_of(name).items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
        return root


CASES = Trees()


def files_of(name: str) -> dict[str, bytes]:
    """The files of a case by their paths in its tree. Raises KeyError for one that is taken away and was not there."""
    files: dict[str, bytes] = {}
    for place, part in LAYOUT[name]["parts"].items():
        files.update({f"{place}/{path}": content for path, content in files_below(BASE / part).items()})
    files.update(files_below(FIXTURES / name))
    for path in ("expected.json", *LAYOUT[name]["absent"]):
        del files[path]
    return files


@functools.cache
def files_below(directory: Path) -> dict[str, bytes]:
    """All files below `directory` by their paths in it."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
