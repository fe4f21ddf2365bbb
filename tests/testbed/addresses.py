# SPDX-License-Identifier: MIT
"""The project's addresses: what conf/addresses.yml says, where each is used, and changing one everywhere.

Run by scripts/addresses. Exit status: 0, or 2 for a name that is none of them or a value that cannot be used.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESSES = REPOSITORY / "conf" / "addresses.yml"
# What the tests read is as it was found.
_LEFT_ALONE = "tests/fixtures/"


def read(path: Path = ADDRESSES) -> dict[str, str]:
    """Each address by its name."""
    addresses: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return addresses


def files(repository: Path = REPOSITORY) -> list[Path]:
    """Every text file of the repository that may have an address."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(_LEFT_ALONE)]
    return [repository / name for name in names if (repository / name).is_file() and not name.endswith(".png")]


def users(address: str, repository: Path = REPOSITORY) -> list[Path]:
    """The files that have this address."""
    return [path for path in files(repository) if address in path.read_text(encoding="utf-8", errors="replace")]


def change(old: str, new: str, repository: Path = REPOSITORY) -> list[Path]:
    """Write `new` wherever `old` stands; returns the files that have changed."""
    changed = users(old, repository)
    for path in changed:
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return changed


def main(arguments: list[str]) -> int:
    """List the addresses, or change those that the arguments name; returns the exit status."""
    addresses = read()
    wanted = dict(word.partition("=")[::2] for word in arguments)
    for name, value in wanted.items():
        if name not in addresses or not re.fullmatch(r"[\w.:/@+~;=-]{3,}", value):
            good = "repository=https://github.com/you/meta-memguard"
            print(f"scripts/addresses: {name}={value}: a good one is {good}", file=sys.stderr)
            return 2
    for name, value in wanted.items():
        print(f"{name}: {value} in {len(change(addresses[name], value))} files")
    if not wanted:
        for name, value in addresses.items():
            print(f"{name}: {value}")
            print("".join(f"    {path.relative_to(REPOSITORY)}\n" for path in users(value)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
