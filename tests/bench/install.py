# SPDX-License-Identifier: MIT
"""Time and size of each way to install the memguard command, and whether every subcommand answers there.

Ways: scripts/memguard of a fresh tree, pip in a new environment, pipx, uv. Each with an empty HOME, far from this tree,
on every Python that is here. Packages come from where pip is set up to find them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import wheel
from testbed.wheel import CALLS

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
PATIENCE_S = 600
# What says where packages come from, and whom to trust.
SETTINGS = ("PIP_", "PIPX_", "UV_", "SSL_CERT_", "http_proxy", "https_proxy")


class Place:
    """One installation: an empty HOME, a Python, and where the command will be."""

    def __init__(self, directory: Path, python: str, made_of: Path) -> None:
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        self.python = python
        self.wheel = made_of
        # Where the packages land, for the size.
        self.packages = directory / "packages"
        kept = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
        self.environment = {**kept, "PATH": os.environ["PATH"], "HOME": str(self.home), "COLUMNS": "120"}

    def run(self, *words: str, **more: str) -> str:
        """What a command prints; raises CalledProcessError, whose text says why, where it fails."""
        env = {**self.environment, **more}
        done = subprocess.run(words, cwd=self.home, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {(done.stdout + done.stderr)[-1000:]}")
        return done.stdout


def by_script(place: Place) -> list[str]:
    """scripts/memguard of a copy of the tree."""
    tree = wheel.copy_sources(place.home / "meta-memguard", (*wheel.SOURCES, "scripts"))
    place.packages = tree / ".venv-memguard"
    place.environment["MEMGUARD_PYTHON"] = place.python
    place.run(str(tree / "scripts" / "memguard"), "--version")
    return [str(tree / "scripts" / "memguard")]


def by_pip(place: Place) -> list[str]:
    """pip install of the wheel in a new environment."""
    place.run(place.python, "-m", "venv", str(place.packages))
    place.run(str(place.packages / "bin" / "pip"), "install", "-q", str(place.wheel))
    return [str(place.packages / "bin" / "memguard")]


def by_pipx(place: Place) -> list[str]:
    """pipx install of the wheel."""
    where = {"PIPX_HOME": str(place.packages), "PIPX_BIN_DIR": str(place.home / "bin")}
    place.run(_tool("pipx"), "install", "-q", "--python", place.python, str(place.wheel), **where)
    return [str(place.home / "bin" / "memguard")]


def by_uv(place: Place) -> list[str]:
    """uv tool install of the wheel."""
    where = {"UV_TOOL_DIR": str(place.packages), "UV_TOOL_BIN_DIR": str(place.home / "bin")}
    place.run(_tool("uv"), "tool", "install", "-q", "--python", place.python, str(place.wheel), **where)
    return [str(place.home / "bin" / "memguard")]


WAYS: dict[str, Callable[[Place], list[str]]] = {
    "scripts/memguard": by_script,
    "pip": by_pip,
    "pipx": by_pipx,
    "uv": by_uv,
}


def _tool(name: str) -> str:
    """pipx or uv: the one in PATH, else one from the package registry, in an environment that the bench made."""
    return shutil.which(name) or str(_TOOLS / "bin" / name)


_TOOLS = Path(tempfile.gettempdir()) / f"memguard-bench-tools-{os.getpid()}"


def pythons(wanted: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Version and program of each wanted Python that is here and runs: in PATH, or one that pyenv has."""
    for version in wanted:
        found = [shutil.which(f"python{version}"), sys.executable]
        found += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))]
        for program in filter(None, found):
            told = [program, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(told, capture_output=True, text=True)
            if done.stdout.strip() == version:
                yield version, program
                break


def answering(place: Place, command: list[str]) -> list[str]:
    """The subcommands that do not do their work."""
    missing = []
    work = wheel.make_work(place.home / "work")
    for name, (words, text, statuses) in CALLS.items():
        done = subprocess.run(
            [*command, *words], cwd=work, env=place.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        if done.returncode not in statuses or text not in done.stdout + done.stderr:
            missing.append(f"{name}: {(done.stdout + done.stderr)[-300:]}")
    return missing


def size_mib(directory: Path) -> float:
    """What the files below a directory take."""
    return sum(path.lstat().st_size for path in directory.rglob("*")) / (1 << 20)


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit status: 1 where a subcommand did not answer."""
    parser = argparse.ArgumentParser(prog="scripts/bench install", description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", default=",".join(VERSIONS), help="versions of Python, those that are here count")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {', '.join(WAYS)}")
    options = parser.parse_args(arguments)
    ways = options.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--ways {','.join(unknown)}: a good value is {','.join(WAYS)}")
    here = dict(pythons(tuple(options.pythons.split(","))))
    console, failed = Console(), False
    console.print(f"not here: Python {', '.join(sorted(set(options.pythons.split(',')) - set(here))) or '-'}")
    table = Table(title="Installing the memguard command")
    for heading in ("way", "Python", "time", "size", "starts in", "subcommands"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    with tempfile.TemporaryDirectory(prefix="memguard-bench-") as scratch:
        made_of = wheel.build(Path(scratch))
        if needed := [way for way in ways if way in ("pipx", "uv") and not shutil.which(way)]:
            subprocess.run([sys.executable, "-m", "venv", str(_TOOLS)], check=True)
            subprocess.run([str(_TOOLS / "bin" / "pip"), "install", "-q", *needed], check=True)
        try:
            for version, python in here.items():
                for way in ways:
                    place = Place(Path(scratch) / f"{version}-{way.replace('/', '-')}", python, made_of)
                    started_s = time.monotonic()
                    command = WAYS[way](place)
                    took_s = time.monotonic() - started_s
                    started_s = time.monotonic()
                    place.run(*command, "--version")
                    starts_s = time.monotonic() - started_s
                    missing = answering(place, command)
                    failed |= bool(missing)
                    size = f"{size_mib(place.packages):.0f} MiB"
                    answers = f"{len(CALLS) - len(missing)} of {len(CALLS)}"
                    table.add_row(way, version, f"{took_s:.1f} s", size, f"{starts_s:.2f} s", answers)
                    for line in missing:
                        console.print(f"{way}, Python {version}: {line}", markup=False, highlight=False)
        finally:
            shutil.rmtree(_TOOLS, ignore_errors=True)
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
