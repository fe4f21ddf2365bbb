# SPDX-License-Identifier: MIT
"""A bed of real OE-core builds: native recipes, offline, each build from nothing and in a container of its own.

Covers: setting the bed up in a directory that stays, parsing, one build with all that is measured of it, and that
nothing of it goes on afterwards, also on Ctrl-C.
Does not cover: what the bed needs of the machine (oe_host), the cgroups (container), which builds are compared.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.record.events import BuildEnded, Event, parse

from . import oe_host
from .checkouts import REPOSITORY, SERIES, SERIES_CONF, NotHere, Workspace, clone
from .container import Container, container

LAYER = REPOSITORY / "tests" / "bench" / "oe-layer"
SOURCES = LAYER / "sources.csv"
# autotools, CMake with make and with Ninja, Meson, plain make; compilers from 30 to 760 MB.
RECIPES = (
    *("harfbuzz-native", "zip-native", "unzip-native", "gperf-native", "nettle-native", "libwebp-native"),
    *("pixman-native", "speexdsp-native", "fribidi-native", "libtasn1-native", "libmd-native", "dosfstools-native"),
    *("makedevs-native", "spirit-native", "eigenx-native", "jsonx-native", "cgalx-native", "gtest-native"),
    "fmt-native",
)
# What a release needs beside what all have: those before 5.1 unpack into WORKDIR, and build an xz first.
_SERIES_LINES = {
    "scarthgap": SERIES_CONF["scarthgap"]
    + 'UNPACKDIR = "${WORKDIR}"\nHOSTTOOLS += "xz"\nASSUME_PROVIDED += "xz-native"\n',
}
# Those of which the release has another version than the archive.
MISSING = {
    "wrynose": (),
    "scarthgap": (
        *("harfbuzz-native", "gperf-native", "nettle-native", "libwebp-native", "pixman-native", "fribidi-native"),
        "libtasn1-native",
    ),
}
TIMEOUT_S = 7200.0
# How often CPU time is read, and with less than this share of one CPU a build stands still.
_LOOK_S = 0.25
_STILL_CPUS = 0.05
# The server ends after the command.
_GRACE_S = 60.0
_SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Kind:
    """What kind of bed it is.

    series:    the release of OE-core, with the BitBake that belongs to it.
    recipes:   what is built.
    ninja:     its version; those before 1.13 take no tokens.
    has_gmock: googletest comes with the tests of gmock, one compiler of which takes 1.4 GB.
    lines:     more lines of local.conf.
    """

    series: str
    recipes: Sequence[str]
    ninja: str = oe_host.NINJA
    has_gmock: bool = False
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Setting:
    """How one build runs: with memguard or stock, under which limit (None: none), tasks at once and jobs of each.

    mode:       MEMGUARD_MODE.
    swap_bytes: the swap that the container may use.
    parks:      MEMGUARD_PARKING is auto.
    """

    is_guarded: bool
    limit_bytes: int | None
    threads: int
    jobs: int
    mode: str = "enforce"
    swap_bytes: int = 0
    parks: bool = True


@dataclass(frozen=True)
class Account:
    """What memguard wrote of one build. idle_s: as BuildEnded has it, None where that was not written."""

    held: int = 0
    stopped: int = 0
    killed: int = 0
    retried: int = 0
    faults: int = 0
    idle_s: float | None = None


@dataclass(frozen=True)
class Built:
    """What one build came to.

    wall_s: until the command ended; cpu_s: of all its processes; peak_bytes: anonymous and shared memory of them all.
    still_s: the longest time in which next to no CPU time was used.
    """

    is_built: bool
    wall_s: float
    cpu_s: float
    peak_bytes: int
    kernel_kills: int
    log: str
    account: Account | None = None
    still_s: float = 0.0


@contextlib.contextmanager
def bed(path: Path, kind: Kind) -> Iterator[Bed]:
    """The bed in the directory `path`, with all that its recipes need; what is there stays, and is used again.

    Nothing outside of `path` is touched, but for packages, a user and a locale that the machine lacks.
    Raises NotHere.
    """
    if os.geteuid() != 0:
        raise NotHere("A bed of OE-core builds makes cgroups, and builds as another user; run this as root.")
    path = path.expanduser().resolve()
    if not re.fullmatch(r"[\w./-]+", str(path)):
        raise NotHere(f"BitBake does not build in {path}; a good value is --bed /var/tmp/oe-bed.")
    trees = [clone(f"bitbake-{SERIES[kind.series]}"), clone(f"openembedded-core-{kind.series}")]
    # The building user shall read what root writes.
    os.umask(0o022)
    path.mkdir(parents=True, exist_ok=True)
    lock = path / "oe-bed.lock"
    if not lock.exists() and any(path.iterdir()):
        raise NotHere(f"{path} has something in it that is no bed; name an empty directory with --bed.")
    with _locked(lock):
        oe_host.install_packages()
        user = oe_host.find_or_make_user()
        place = Workspace(path, user)
        if not place.can_read(path):
            raise NotHere(f"{user.pw_name} cannot enter {path}; a good value is --bed /var/tmp/oe-bed.")
        oe_host.fetch_sources(oe_host.read_sources(SOURCES, kind.recipes), place.downloads, path / "apt")
        place.hand_over(*place.downloads.iterdir())
        tools = oe_host.make_tools(path / f"tools-ninja-{kind.ninja}", kind.ninja)
        bitbake, oe = (_readable(tree, place) for tree in trees)
        yield Bed(place, user, tools, bitbake, oe, kind)


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Have the bed to oneself. Raises NotHere where somebody else has it."""
    with open(lock, "w", encoding="ascii") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotHere(f"Somebody builds in {lock.parent} already; name another directory with --bed.") from None
        yield


def _readable(tree: Path, place: Workspace) -> Path:
    """The clone where it lies if the building user can read it, else a clone of it in the bed. Raises NotHere."""
    if place.can_read(tree / "LICENSE"):
        return tree
    own = place.path / tree.name
    commits = [_git("-C", str(path), "rev-parse", "HEAD") if path.is_dir() else "" for path in (tree, own)]
    if commits[0] != commits[1]:
        shutil.rmtree(own, ignore_errors=True)
        _git("clone", "--quiet", "--local", "--no-hardlinks", str(tree), str(own))
    return own


def _git(*words: str) -> str:
    """What git says. Raises NotHere where it fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"git {' '.join(words)} failed: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


class ParseFailed(Exception):
    """BitBake could not read the recipes; the text ends with what it said."""


class Bed:
    """Everything that builds need, in one directory; use `bed()` to set it up and to have it alone."""

    def __init__(
        self,
        place: Workspace,
        user: pwd.struct_passwd,
        tools: Path,
        bitbake: Path,
        oe: Path,
        kind: Kind,
    ) -> None:
        self.bitbake, self.oe = bitbake, oe
        self.kind = kind
        self._place = place
        self._user = user
        self._path = os.pathsep.join([str(tools), str(bitbake / "bin"), _SYSTEM_PATH])
        self._layer = place.path / LAYER.name
        self._logs = place.path / "logs"
        self._logs.mkdir(exist_ok=True)
        shutil.rmtree(self._layer, ignore_errors=True)
        shutil.copytree(LAYER, self._layer)
        for is_guarded in (False, True):
            self._configure(is_guarded)

    def _directory(self, is_guarded: bool) -> Path:
        """The build directory: parsed recipes stay in it, and with memguard, what that writes."""
        return self._place.path / f"build-{'memguard' if is_guarded else 'stock'}-{self.kind.series}"

    def _configure(self, is_guarded: bool) -> None:
        """Write the configuration; stock does not even know the layer."""
        conf = self._directory(is_guarded) / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        layers = [self.oe / "meta", self._layer, *([self._place.layer] if is_guarded else [])]
        # BitBake reads all recipes, and wants the sources of those that take them from a file.
        ours = {path.name for path in (LAYER / "recipes-bed").iterdir()}
        left_out = [name for name in sorted(ours) if f"{name}-native" not in self.kind.recipes]
        mask = "".join(f'BBMASK += "/recipes-bed/{name}/"\n' for name in left_out)
        switch = 'INHERIT += "memguard"\n' if is_guarded else ""
        (conf / "bblayers.conf").write_text(
            f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{" ".join(map(str, layers))}"\n', encoding="utf-8"
        )
        gmock = 'OE_BED_GMOCK = "ON"\n' if self.kind.has_gmock else ""
        base = f'OE_BED = "{self._place.path}"\nrequire conf/oe-bed.inc\n{_SERIES_LINES.get(self.kind.series, "")}'
        lines = "".join(f"{line}\n" for line in self.kind.lines)
        (conf / "local.conf").write_text(f"{base}{gmock}{mask}{switch}{lines}", encoding="utf-8")
        self._place.hand_over(conf.parent, conf, *conf.iterdir())

    def parse(self, setting: Setting) -> None:
        """Parse all recipes as a build does, so that it need not. Raises ParseFailed."""
        name = f"parse-{'memguard' if setting.is_guarded else 'stock'}"
        log = self._logs / f"{name}.log"
        self._make_empty()
        words = ["bitbake", *self._numbers(name, setting), "-p"]
        if not self._run(replace(setting, limit_bytes=None), words, log).is_built:
            raise ParseFailed(f"the recipes could not be parsed:\n{log.read_text(errors='replace')[-4000:]}")

    def forget_history(self) -> None:
        """Have the next build with memguard be its first."""
        shutil.rmtree(self.memguard.path, ignore_errors=True)

    def build(self, name: str, setting: Setting) -> Built:
        """Build all recipes from nothing; what BitBake says goes to the log of this name. Raises NoContainer."""
        self._make_empty()
        words = ["bitbake", *self._numbers(name, setting), *self.kind.recipes]
        return self._run(setting, words, self._logs / f"{name}.log")

    def compile_again(self, name: str, setting: Setting) -> Built:
        """Have do_compile of all recipes run in what the last build has left. Raises NoContainer."""
        words = ["bitbake", *self._numbers(name, setting), "-c", "compile", "-f", *self.kind.recipes]
        return self._run(setting, words, self._logs / f"{name}.log")

    def graph(self, setting: Setting) -> Path:
        """What `bitbake -g` writes of all recipes. Raises ParseFailed."""
        log = self._logs / "graph.log"
        words = ["bitbake", *self._numbers("graph", setting), "-g", *self.kind.recipes]
        if not self._run(replace(setting, limit_bytes=None), words, log).is_built:
            raise ParseFailed(f"there is no graph of the recipes:\n{log.read_text(errors='replace')[-4000:]}")
        return self._directory(setting.is_guarded) / "task-depends.dot"

    def _numbers(self, name: str, setting: Setting) -> list[str]:
        """What tells BitBake how many tasks and jobs to run."""
        conf = self._logs / f"{name}.conf"
        lines = [f'BB_NUMBER_THREADS = "{setting.threads}"', f'PARALLEL_MAKE = "-j {setting.jobs}"']
        if setting.is_guarded:
            lines += [f'MEMGUARD_MODE = "{setting.mode}"', f'MEMGUARD_PARKING = "{"auto" if setting.parks else "off"}"']
        conf.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return ["-R", str(conf)]

    @property
    def memguard(self) -> BuildDirectory:
        """What memguard has written in the builds since its history was forgotten."""
        return BuildDirectory(self._directory(True) / USUAL_NAME)

    def _make_empty(self) -> None:
        """Leave nothing of an earlier build but parsed recipes and history."""
        for name in ("out", "sstate"):
            left = self._place.path / name
            if left.exists():
                shutil.rmtree(left)
            left.mkdir()
            self._place.hand_over(left)

    def _run(self, setting: Setting, words: Sequence[str], log: Path) -> Built:
        """Run a command as after oe-init-build-env, as the building user, until nothing of it is left."""
        directory = self._directory(setting.is_guarded)
        env = self._place.environment(self.bitbake, BITBAKEDIR=str(self.bitbake), PATH=self._path)
        set_up = f'. "{self.oe}/oe-init-build-env" "{directory}" >/dev/null && exec "$@"'
        as_user = ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--init-groups"]
        # A shell that starts a bench in the background has it, and all it starts, ignore these.
        clean = ["env", "--default-signal=INT,QUIT", "-i", *(f"{name}={value}" for name, value in env.items())]
        command = [*as_user, *clean, "bash", "-c", set_up, "bash", *words]
        before = set(self.memguard.path.rglob("*"))
        with container(setting.limit_bytes, "memguard-oe", counts_cpu=True, swap_bytes=setting.swap_bytes) as box:
            status, wall_s, still_s = _run_inside(box, command, self._place.path, log)
            box.wait_until_empty(_GRACE_S)
            cpu_s, peak_bytes, kernel_kills = box.cpu_s, box.peak_process_bytes, box.oom_kills
        account = _read(set(self.memguard.path.rglob("*")) - before) if setting.is_guarded else None
        seconds = (round(wall_s, 1), round(cpu_s, 1))
        return Built(status == 0, *seconds, peak_bytes, kernel_kills, str(log), account, round(still_s, 1))


def _run_inside(box: Container, command: Sequence[str], directory: Path, log: Path) -> tuple[int, float, float]:
    """Exit status and seconds of a command in a container, and the longest time it stood still; -9 for one that took
    too long."""
    with open(log, "wb") as out:
        started_s = time.monotonic()
        client = subprocess.Popen(
            [*box.prefix, *command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        still_s = 0.0
        try:
            still_s = _wait(client, box, started_s + TIMEOUT_S)
            if client.poll() is None:
                out.write(f"\nkilled after {TIMEOUT_S:g} s\n".encode())
        finally:
            # Also on Ctrl-C; what it started is killed with the container.
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)
                client.wait()
    return client.returncode, time.monotonic() - started_s, still_s


def _wait(client: subprocess.Popen[bytes], box: Container, deadline_s: float) -> float:
    """Wait for a command; the longest time in which next to nothing of its container was on a CPU."""
    now_s, cpu_s = time.monotonic(), box.cpu_s
    longest_s, went_on_s = 0.0, now_s
    while client.poll() is None and now_s < deadline_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(_LOOK_S)
        before_s, then_s, now_s, cpu_s = cpu_s, now_s, time.monotonic(), box.cpu_s
        if cpu_s - before_s >= _STILL_CPUS * (now_s - then_s):
            went_on_s = now_s
        longest_s = max(longest_s, now_s - went_on_s)
    return longest_s


def _read(written: Iterable[Path]) -> Account:
    """The account out of the files that a build with memguard has added."""
    events = [event for path in written if path.suffix == ".jsonl" for event in _events(path)]
    count = collections.Counter(event.event for event in events)
    ends = [event for event in events if isinstance(event, BuildEnded)]
    return Account(
        held=count["hold"],
        stopped=count["stop"],
        killed=count["kill"],
        retried=count["retry"],
        faults=sum(path.name.startswith("fault-") for path in written),
        idle_s=ends[-1].idle_s if ends else None,
    )


def _events(log: Path) -> Iterator[Event]:
    """The events of a log; the last line of a build that was killed may be half of one."""
    for line in log.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            yield parse(line)
