# SPDX-License-Identifier: MIT
"""Jobs that count themselves, and real make, ninja and cargo to run them.

Covers: a small program that says when it begins and ends, what that says of how many ran at once, GNU make 4.4.1 built
from the source that Debian publishes, ninja 1.13 from the package registry, build files for all of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

# Where what was built is kept: it goes with the virtual environment.
CACHE = Path(__file__).resolve().parents[2] / ".venv" / "tools"

MAKE_VERSION = "4.4.1"
MAKE_SOURCE = f"pool/main/m/make-dfsg/make-dfsg_{MAKE_VERSION}.orig.tar.xz"
MAKE_SHA256 = "3b16b00ea1079af9f8096bbc71ff7cc00c249fc6a862003da3c42308a0adb0fe"

# job LOG MILLISECONDS [AT_ONCE]: one line of four bytes and more when it begins, one when it ends, appended whole.
# It waits, 20 s at most, until so many have run at once, and lasts for that many milliseconds more.
_JOB = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static int most_at_once(const char *path)
{
    char line[32];
    int now = 0, most = 0;
    FILE *log = fopen(path, "r");
    while (log && fgets(line, sizeof line, log)) {
        now += *line == '+' ? 1 : -1;
        if (now > most) most = now;
    }
    if (log) fclose(log);
    return most;
}
int main(int argc, char **argv)
{
    char line[32];
    int log = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644), left = atoi(argv[2]);
    struct timespec pause = {left / 1000, left % 1000 * 1000000L}, tick = {0, 10000000L};
    if (write(log, line, sprintf(line, "+%d\n", getpid())) < 0) return 1;
    if (argc > 3)
        for (int i = 0; i < 2000 && most_at_once(argv[1]) < atoi(argv[3]); i++) nanosleep(&tick, 0);
    nanosleep(&pause, 0);
    return write(log, line, sprintf(line, "-%d\n", getpid())) < 0;
}
"""


class NotHere(Exception):
    """A tool that cannot be had; the text says why."""


class Jobs:
    """Jobs of one test: the program, its log, and what the log says."""

    def __init__(self, directory: Path) -> None:
        """Build the program in `directory`."""
        self.directory = directory
        self.log = directory / "jobs.log"
        self.program = directory / "job"
        source = directory / "job.c"
        source.write_text(_JOB, encoding="ascii")
        subprocess.run(["cc", "-O1", "-o", str(self.program), str(source)], check=True)
        self.log.touch()

    def command(self, milliseconds: int, at_once: int = 1, log: Path | None = None) -> str:
        """A command that is one job, which lasts so long after so many have run at once; in another log, if told."""
        return f"{self.program} {log or self.log} {milliseconds} {at_once}"

    @property
    def began(self) -> int:
        """How many have begun."""
        return self._lines().count("+")

    @property
    def running(self) -> int:
        """How many run now, or were killed."""
        lines = self._lines()
        return lines.count("+") - lines.count("-")

    @property
    def length(self) -> int:
        """Beginnings and ends so far."""
        return len(self._lines())

    def most(self, since: int = 0) -> int:
        """How many ran at once at most, from the event with this number on."""
        now = most = 0
        for number, kind in enumerate(self._lines()):
            now += 1 if kind == "+" else -1
            most = max(most, now) if number >= since else now
        return most

    def _lines(self) -> str:
        """One sign for each beginning and end."""
        return "".join(re.findall(r"^[+-]", self.log.read_text(encoding="ascii"), re.MULTILINE))


def write_makefile(folder: Path, command: str, count: int, extra: str = "") -> None:
    """A Makefile of `count` jobs; `extra` are lines put before them."""
    folder.mkdir(exist_ok=True)
    targets = " ".join(f"job{number}" for number in range(count))
    (folder / "Makefile").write_text(f"all: {targets}\n{extra}\njob%:\n\t@{command}\n", encoding="ascii")


def write_ninja(folder: Path, commands: Iterable[str]) -> None:
    """A build.ninja with one job for each command."""
    folder.mkdir(exist_ok=True)
    rule = "rule run\n  command = $run\n"
    edges = "".join(f"build job{number}: run\n  run = {run}\n" for number, run in enumerate(commands))
    (folder / "build.ninja").write_text(rule + edges, encoding="ascii")


def write_cmake(folder: Path, command: str, count: int) -> None:
    """A CMakeLists.txt of `count` jobs."""
    rules = "".join(f"add_custom_command(OUTPUT job{number} COMMAND {command})\n" for number in range(count))
    targets = " ".join(f"job{number}" for number in range(count))
    head = "cmake_minimum_required(VERSION 3.10)\nproject(jobs NONE)\n"
    (folder / "CMakeLists.txt").write_text(f"{head}{rules}add_custom_target(all_jobs ALL DEPENDS {targets})\n")


def find_ninja() -> Path:
    """The ninja that the package registry has. Raises NotHere."""
    found = Path(sys.executable).with_name("ninja")
    if not found.exists():
        raise NotHere("ninja 1.13 is not installed beside this Python (extra `test`)")
    told = subprocess.run([str(found), "--version"], capture_output=True, text=True).stdout
    if tuple(int(number) for number in re.findall(r"\d+", told)[:2]) < (1, 13):
        raise NotHere(f"ninja 1.13 knows pools, {found} is {told.strip()}")
    return found


def find_make(cache: Path = CACHE) -> Path:
    """GNU make 4.4.1, which knows FIFOs; built at first, which takes half a minute. Raises NotHere."""
    made = cache / f"make-{MAKE_VERSION}" / "make"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            built = _build_make(Path(work))
            made.parent.mkdir(exist_ok=True)
            # Renamed whole: another test may look for it just now.
            os.replace(built, made)
    return made


def _build_make(work: Path) -> Path:
    url = f"{_mirror()}/{MAKE_SOURCE}"
    archive = work / "make.tar.xz"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            archive.write_bytes(answer.read())
    except OSError as error:
        raise NotHere(f"GNU make {MAKE_VERSION} cannot be fetched: {url}: {error}") from None
    if hashlib.sha256(archive.read_bytes()).hexdigest() != MAKE_SHA256:
        raise NotHere(f"{url} is not the source of GNU make {MAKE_VERSION} that was expected")
    with tarfile.open(archive) as packed:
        packed.extractall(work)
    (source,) = (path for path in work.iterdir() if path.is_dir())
    # Debian leaves the manual out, but not its place in the build.
    (source / "doc").mkdir(exist_ok=True)
    (source / "doc" / "Makefile.in").touch()
    script = "./configure -q --without-guile --disable-nls --disable-dependency-tracking CFLAGS=-O1 && sh build.sh"
    built = subprocess.run(["sh", "-c", script], cwd=source, capture_output=True, text=True)
    if built.returncode or not (source / "make").exists():
        raise NotHere(f"GNU make {MAKE_VERSION} does not build: {(built.stdout + built.stderr)[-500:]}")
    return source / "make"


def _mirror() -> str:
    """The Debian mirror that this machine is set up with. Raises NotHere."""
    listed = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in listed if path.is_file()]
    found = re.search(r"^(?:deb\b.*|URIs:).*?\s(https?://\S+/debian)/?(?=\s|$)", "\n".join(texts), re.MULTILINE)
    if not found:
        raise NotHere(f"GNU make {MAKE_VERSION} is built from Debian's source, and this machine has no Debian mirror")
    return found.group(1)
