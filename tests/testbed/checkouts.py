# SPDX-License-Identifier: MIT
"""Upstream's own trees: clones of BitBake and OpenEmbedded-Core, and builds in them as somebody who may build.

Covers: finding the clones, a place to work that an unprivileged user owns, build directories with and without the
layer, running commands with the CPU time of all their processes, sources for recipes, and the cost of a dry run.
Does not cover: getting the clones; MEMGUARD_CHECKOUTS names the directory that holds them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .events import read_log

REPOSITORY = Path(__file__).resolve().parents[2]
# What runs as another process runs this tree, whatever is installed.
_PYTHONPATH = os.pathsep.join(str(REPOSITORY / part) for part in ("meta-memguard/lib", "lib", "tests"))
META_MEMGUARD = REPOSITORY / "meta-memguard"
IMAGE = "core-image-minimal"

# OpenEmbedded-Core's release, and the BitBake that belongs to it.
SERIES = {"master": "master", "wrynose": "2.18", "whinlatter": "2.16", "walnascar": "2.12", "scarthgap": "2.8"}

# Whether a build directory has the layer, and whether it switches memguard on.
VARIANTS = {"stock": (False, False), "layer": (True, False), "memguard": (True, True)}

LOCAL_CONF = """\
MACHINE = "qemux86-64"
DISTRO = "nodistro"
BB_NO_NETWORK = "1"
CONNECTIVITY_CHECK_URIS = ""
# What OE-core would build or download first although recipes for the build host can do without.
PATCHTOOL = "patch"
INHERIT:remove = "uninative create-spdx"
"""
# What recipes for the build host can do without: two thirds of all recipes, and of the time to parse them.
FEW_RECIPES = """\
BBMASK = "/recipes-(bsp|connectivity|gnome|graphics|kernel|multimedia|rt|sato|support)/"
BBMASK += "/recipes-devtools/(clang|go|qemu|rust|python/python3-)"
"""
# A world of some recipes for the build host.
SMALL_WORLD = (
    FEW_RECIPES
    + 'EXCLUDE_FROM_WORLD = "1"\n'
    + "".join(
        f'EXCLUDE_FROM_WORLD:pn-{name}-native = "0"\n'
        for name in ("autoconf", "automake", "libtool", "m4", "makedevs", "quilt", "unzip", "zip")
    )
)
# TMPDIR is called tmp in every release.
SERIES_CONF = {"scarthgap": 'TCLIBCAPPEND = ""\n'}

# A command whose server does not end is waited for so long after the command itself.
_GRACE_S = 60.0
_PR_SET_CHILD_SUBREAPER = 36
# Where an unprivileged user finds programs, whatever the PATH of root is.
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class NotHere(Exception):
    """Something these builds need is missing; the text says what, and what to do about it."""


@dataclass(frozen=True)
class Run:
    """What a command did; `cpu_s` counts all its processes, the daemonised server and its tasks among them.

    `leftover` names the processes that outlived the command by more than the grace time and were killed; returncode
    is -9 after a timeout.
    """

    returncode: int
    output: str
    wall_s: float
    cpu_s: float
    leftover: tuple[str, ...]


def clone(name: str) -> Path:
    """The clone of this name in MEMGUARD_CHECKOUTS; raises NotHere where there is none."""
    named = os.environ.get("MEMGUARD_CHECKOUTS")
    if not named:
        raise NotHere(f"MEMGUARD_CHECKOUTS names no directory with a clone {name}.")
    tree = Path(named).expanduser().resolve() / name
    part = "bin/bitbake" if name.startswith("bitbake-") else "oe-init-build-env"
    if not (tree / part).is_file():
        raise NotHere(f"{tree} is no clone to test with: it has no {part}.")
    return tree


def name_building_user() -> str:
    """Who builds where root asks for it."""
    return os.environ.get("MEMGUARD_BUILD_USER", "builder")


def building_user() -> pwd.struct_passwd:
    """Who builds: this user, or where that is root, MEMGUARD_BUILD_USER. Raises NotHere where there is none."""
    user = pwd.getpwuid(os.geteuid())
    if user.pw_uid == 0:
        name = name_building_user()
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            raise NotHere(
                f"OpenEmbedded-Core does not build as root, and there is no user {name} to build as; make one, or name "
                "another in MEMGUARD_BUILD_USER."
            ) from None
    return user


class Workspace:
    """A directory that the building user owns, with a copy of the layer; use `workspace()` to make it."""

    def __init__(self, path: Path, user: pwd.struct_passwd) -> None:
        self.path = path
        self.layer = path / "meta-memguard"
        self.downloads = path / "downloads"
        self._user = user
        shutil.rmtree(self.layer, ignore_errors=True)
        shutil.copytree(META_MEMGUARD, self.layer, ignore=shutil.ignore_patterns("__pycache__"))
        self.hand_over(path, self.layer, *self.layer.rglob("*"))
        for name in ("downloads", "home", "tmp"):
            (path / name).mkdir(exist_ok=True)
            self.hand_over(path / name)

    def hand_over(self, *paths: Path) -> None:
        """Give files and directories that the tests wrote to the building user."""
        if os.geteuid() != self._user.pw_uid:
            for path in paths:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def can_read(self, path: Path) -> bool:
        """Whether the building user can read `path`."""
        return self.run(["test", "-r", str(path)], timeout=10).returncode == 0

    def environment(self, bitbake: Path, **extra: str) -> dict[str, str]:
        """All that a build needs to see, without anything of the caller's own build settings."""
        path = _PATH if os.geteuid() == 0 else os.environ.get("PATH", _PATH)
        return {
            "PATH": os.pathsep.join([str(bitbake / "bin"), path]),
            "HOME": str(self.path / "home"),
            "TMPDIR": str(self.path / "tmp"),
            "USER": self._user.pw_name,
            "LANG": "en_US.UTF-8",
            "LC_ALL": "en_US.UTF-8",
            "TERM": "dumb",
            "BB_SERVER_TIMEOUT": "0",
            **extra,
        }

    def run(self, command: Sequence[str], env: dict[str, str] | None = None, timeout: float = 3600) -> Run:
        """Run a command here as the building user, until every process it started is gone."""
        told, tell = os.pipe()
        reaper = [sys.executable, "-m", "testbed.checkouts", "reap", str(tell), self._user.pw_name, str(timeout)]
        words = ["env", "-i", *(f"{name}={value}" for name, value in (env or {"PATH": _PATH}).items()), *command]
        started = time.monotonic()
        with tempfile.TemporaryFile() as out, open(told, encoding="utf-8") as report:
            process = subprocess.Popen(
                [*reaper, *words],
                cwd=self.path,
                env={**os.environ, "PYTHONPATH": _PYTHONPATH},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[tell],
                start_new_session=True,
            )
            os.close(tell)
            try:
                text = report.read()
            finally:
                # Also on Ctrl-C in the tests: the reaper takes everything along.
                process.terminate()
                process.wait()
            out.seek(0)
            output = out.read().decode("utf-8", "replace")
        if not text:
            raise RuntimeError(f"{' '.join(command)} could not be run: {output}")
        facts: dict[str, Any] = json.loads(text)
        return Run(facts["returncode"], output, time.monotonic() - started, facts["cpu_s"], tuple(facts["leftover"]))


@contextlib.contextmanager
def workspace() -> Iterator[Workspace]:
    """A place to build in; MEMGUARD_CHECKOUT_WORK names one that is kept, with its parsed recipes.

    Raises NotHere where no user may build: OE-core refuses root, so root builds as MEMGUARD_BUILD_USER ("builder").
    """
    user = building_user()
    kept = os.environ.get("MEMGUARD_CHECKOUT_WORK")
    path = Path(kept).expanduser().resolve() if kept else Path(tempfile.mkdtemp(prefix="memguard-checkouts-"))
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield Workspace(path, user)
    finally:
        if not kept:
            shutil.rmtree(path, ignore_errors=True)


class OeBuild:
    """One build directory on one release of OE-core; its variants share it, so that only their setting differs."""

    def __init__(self, place: Workspace, series: str, name: str = "", conf: str = "") -> None:
        self.oe = clone(f"openembedded-core-{series}")
        self.bitbake = clone(f"bitbake-{SERIES[series]}")
        self.place = place
        self.conf = f'{LOCAL_CONF}{SERIES_CONF.get(series, "")}DL_DIR = "{place.downloads}"\n{conf}'
        self.path = place.path / (name or series)
        for tree in (self.oe, self.bitbake):
            if not place.can_read(tree / "LICENSE"):
                raise NotHere(f"{tree} cannot be read by the user who builds.")

    def configure(self, variant: str, extra_conf: str = "") -> None:
        """Write the configuration of a variant; parsed recipes of the others stay valid."""
        has_layer, is_on = VARIANTS[variant]
        layers = [self.oe / "meta", *([self.place.layer] if has_layer else [])]
        conf = self.path / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        (conf / "bblayers.conf").write_text(
            f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{" ".join(map(str, layers))}"\n', encoding="utf-8"
        )
        switch = 'INHERIT += "memguard"\n' if is_on else ""
        (conf / "local.conf").write_text(f"{self.conf}{extra_conf}{switch}", encoding="utf-8")
        self.place.hand_over(self.path, conf, *conf.iterdir())

    def run(self, *command: str, timeout: float = 3600) -> Run:
        """Run a command as it is run after oe-init-build-env."""
        set_up = f'. "{self.oe}/oe-init-build-env" "{self.path}" >/dev/null && exec "$@"'
        env = self.place.environment(self.bitbake, BITBAKEDIR=str(self.bitbake))
        return self.place.run(["bash", "-c", set_up, "bash", *command], env, timeout)

    def forget_results(self) -> None:
        """Remove what was built here before, but not the parsed recipes."""
        kept = {"cache", "abi_version", "saved_tmpdir"}
        old = [path for path in (self.path / "tmp").glob("*") if path.name not in kept]
        for path in (*old, self.path / "sstate-cache", self.path / "memguard"):
            shutil.rmtree(path, ignore_errors=True)

    def signatures(self) -> set[str]:
        """What `bitbake -S none` said of every task of the image: its recipe, name and hash."""
        stamps = self.path / "tmp" / "stamps"
        shutil.rmtree(stamps, ignore_errors=True)
        result = self.run("bitbake", "-S", "none", IMAGE)
        if result.returncode:
            raise RuntimeError(result.output)
        return {str(path.relative_to(stamps)) for path in stamps.rglob("*.sigdata.*")}


def provide_source(recipe: Path, package: str, place: Workspace) -> None:
    """Put the recipe's tarball into DL_DIR: from MEMGUARD_SOURCES, else what Debian publishes as its original.

    Raises NotHere when neither has the very file whose SHA-256 the recipe demands.
    """
    text = recipe.read_text(encoding="utf-8")
    uri = re.search(r'SRC_URI\s*=\s*"(\S+)', text)
    wanted = re.search(r'SRC_URI\[sha256sum\]\s*=\s*"(\w+)"', text)
    if not uri or not wanted:
        raise NotHere(f"{recipe} names no tarball with a SHA-256.")
    version = recipe.stem.rpartition("_")[2]
    name = uri.group(1).rpartition("/")[2].replace("${PV}", version).replace("${BP}", f"{package}-{version}")
    target = place.downloads / name
    if target.exists():
        return
    named = os.environ.get("MEMGUARD_SOURCES")
    candidates = [Path(named).expanduser() / name] if named else []
    with tempfile.TemporaryDirectory() as directory:
        if not any(has_digest(path, wanted.group(1)) for path in candidates):
            candidates = _debian_originals(package, wanted.group(1), Path(directory))
        found = next((path for path in candidates if has_digest(path, wanted.group(1))), None)
        if found is None:
            raise NotHere(f"{name} is neither in MEMGUARD_SOURCES nor what the package sources have for {package}.")
        shutil.copy(found, target)
    place.hand_over(target)


def has_digest(path: Path, sha256: str) -> bool:
    """Whether `path` is a file with this SHA-256."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _debian_originals(package: str, sha256: str, directory: Path) -> list[Path]:
    """The original tarball of a Debian package with this checksum, from the archives this machine installs from."""
    if not shutil.which("apt-get"):
        return []
    (directory / "lists" / "partial").mkdir(parents=True)
    archives = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    option = f"[signed-by={keys}] " if keys.exists() else ""
    (directory / "sources.list").write_text(
        "".join(f"deb-src {option}{archive}\n" for archive in sorted(set(archives)))
    )
    apt_get = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", f"Dir::Etc::SourceList={directory}/sources.list"]
    apt_get += ["-o", "Dir::Etc::SourceParts=-", "-o", f"Dir::State::Lists={directory}/lists"]
    apt_get += ["-o", f"Dir::Cache={directory}/cache"]
    subprocess.run([*apt_get, "update"], cwd=directory, capture_output=True)
    listed = subprocess.run(["apt-cache", *apt_get[1:], "showsrc", package], capture_output=True, text=True).stdout
    # Every version that has the very file: one of the archives may have dropped it.
    for record in listed.split("\n\n"):
        version = re.search(r"^Version: (\S+)", record, re.MULTILINE)
        if version and sha256 in record:
            words = ["source", "--download-only", "--tar-only", f"{package}={version.group(1)}"]
            subprocess.run([*apt_get, *words], cwd=directory, capture_output=True)
    return sorted(directory.glob("*.orig.tar.*"))


def events_below(directory: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in all event logs below `directory`."""
    return [event for log in sorted(directory.rglob("*.jsonl")) for event in read_log(log) if event["event"] == kind]


def faults(directory: Path) -> str:
    """The tracebacks memguard left below `directory`; a build after a fault goes on as stock and looks well."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(directory.rglob("fault-*.txt")))


# ---- the cost of a dry run -------------------------------------------------------------------------------------------


def measure_dry_run(series: str, pairs: int, say: Console) -> dict[str, list[Run]]:
    """Dry runs of the image, stock and with memguard in turns, the first of each pair alternating."""
    runs: dict[str, list[Run]] = {"stock": [], "memguard": []}
    with workspace() as place:
        build = OeBuild(place, series)
        for variant in runs:
            # Recipes are parsed before the clock starts.
            build.configure(variant)
            _checked(build.run("bitbake", "-p"))
        for pair in range(pairs):
            for variant in sorted(runs, reverse=pair % 2 == 0):
                build.configure(variant)
                run = _checked(build.run("bitbake", "-n", IMAGE))
                runs[variant].append(run)
                tasks = re.search(r"Attempted (\d+) tasks", run.output)
                say.print(
                    f"pair {pair + 1}, {variant}: {run.cpu_s:.1f} s CPU, {run.wall_s:.1f} s wall, "
                    f"{tasks.group(1) if tasks else '?'} tasks",
                    highlight=False,
                )
    return runs


def _checked(run: Run) -> Run:
    if run.returncode:
        raise RuntimeError(run.output)
    return run


def _table(title: str, runs: dict[str, list[Run]]) -> Table:
    table = Table(title=title)
    for heading in ("", "runs", "CPU s, median", "least", "most", "wall s, median"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, of_name in runs.items():
        cpu_s = [run.cpu_s for run in of_name]
        wall_s = statistics.median(run.wall_s for run in of_name)
        table.add_row(
            name,
            str(len(cpu_s)),
            *(f"{value:.1f}" for value in (statistics.median(cpu_s), min(cpu_s), max(cpu_s))),
            f"{wall_s:.1f}",
        )
    more = [100 * (ours.cpu_s / stock.cpu_s - 1) for stock, ours in zip(runs["stock"], runs["memguard"])]
    shares = (f"{value:+.1f} %" for value in (statistics.median(more), min(more), max(more)))
    table.add_row("memguard against stock, pair by pair", str(len(more)), *shares, "")
    return table


# ---- one command and all it starts -----------------------------------------------------------------------------------


def _reap(tell: int, user: str, timeout: float, command: Sequence[str]) -> int:
    """Run `command` as `user`, wait for all its descendants, and write what they did to the descriptor `tell`.

    Processes that lose their parent, as BitBake's server does on purpose, become children of this one, and the
    kernel adds their CPU time up here once they are waited for.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    os.set_inheritable(tell, False)
    account = pwd.getpwnam(user)
    as_user: dict[str, Any] = {}
    if os.geteuid() != account.pw_uid:
        groups = os.getgrouplist(user, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    client = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, umask=0o022, **as_user)
    returncode, leftover = None, []
    deadline = time.monotonic() + timeout
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == client.pid:
            returncode = os.waitstatus_to_exitcode(status)
            deadline = time.monotonic() + _GRACE_S
        elif pid == 0:
            if stops or time.monotonic() > deadline:
                leftover += _kill_children()
            time.sleep(0.05)
    times = os.times()
    facts = {
        "returncode": -9 if returncode is None else returncode,
        "cpu_s": times.children_user + times.children_system,
        "leftover": leftover,
    }
    with open(tell, "w", encoding="utf-8") as report:
        json.dump(facts, report)
    return 0


def _kill_children() -> list[str]:
    """Kill the processes whose parent this one is, those of theirs come next; what was killed, in words."""
    killed = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                words = (entry / "cmdline").read_text(encoding="utf-8", errors="replace")
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(words.replace("\0", " ").strip())
    return killed


def main(arguments: list[str]) -> int:
    """Measure what scripts/checkouts asks for; returns the exit status."""
    if arguments[:1] == ["reap"]:
        return _reap(int(arguments[1]), arguments[2], float(arguments[3]), arguments[4:])
    parser = argparse.ArgumentParser(prog="scripts/checkouts", description="Measure memguard on upstream's own trees.")
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench-dry-run", help=f"CPU time of `bitbake -n {IMAGE}`, stock and with memguard")
    bench.add_argument("--pairs", type=int, default=3, help="runs of each, in alternating order (default: 3)")
    bench.add_argument("--series", choices=sorted(SERIES), default="wrynose", help="release (default: wrynose)")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        runs = measure_dry_run(options.series, max(1, options.pairs), console)
    except NotHere as missing:
        print(f"scripts/checkouts: {missing}", file=sys.stderr)
        return 2
    console.print(_table(f"bitbake -n {IMAGE}, {options.series}", runs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
