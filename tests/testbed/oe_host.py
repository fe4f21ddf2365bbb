# SPDX-License-Identifier: MIT
"""What real builds of OE-core need of the machine: Debian packages, somebody who builds, sources, newer build tools.

Covers: finding out what is missing, and getting only that, as root.
Does not cover: the clones of upstream (checkouts), and builds (oe_bed).
"""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkouts import NotHere, building_user, has_digest, name_building_user

# What OE-core asks of a host, what stands in for recipes that nobody wants to build, and the headers of our recipes.
PACKAGES = (
    *("autoconf", "automake", "bc", "bison", "bzip2", "chrpath", "cpio", "diffstat", "file", "flex", "g++", "gawk"),
    *("gcc", "gettext", "git", "groff", "help2man", "libtool", "locales", "lz4", "m4", "make", "patch", "pkg-config"),
    *("python3", "python3-venv", "rpcsvc-proto", "texinfo", "wget", "xz-utils", "zstd"),
    *("libboost-dev", "libcgal-dev", "libeigen3-dev", "nlohmann-json3-dev"),
)
# OE-core wants newer ones than a distribution has.
TOOLS = ("cmake==4.4.5", "meson==1.9.2")
NINJA = "1.13.2"
# The Python that everybody may run: the one that runs this may lie where the building user cannot go.
SYSTEM_PYTHON = "/usr/bin/python3"
ARCHIVE = "http://deb.debian.org/debian"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Source:
    """The tarball of a recipe: `orig` of a Debian source package, and `name` below DL_DIR."""

    recipe: str
    suite: str
    package: str
    version: str
    orig: str
    name: str
    sha256: str


def read_sources(table: Path, recipes: Collection[str]) -> list[Source]:
    """The rows of these recipes; who is not in the table needs no tarball."""
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [Source(**row) for row in csv.DictReader(lines) if row["recipe"] in recipes]


def install_packages() -> None:
    """Install what is missing of PACKAGES, and the locale of builds. Raises NotHere."""
    if not shutil.which("dpkg-query"):
        raise NotHere("The bed takes packages and sources of Debian, and this machine is none.")
    found = _output("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *PACKAGES).splitlines()
    present = {line.split()[-1] for line in found if line.startswith("ii")}
    missing = [package for package in PACKAGES if package not in present]
    if missing:
        _check(["apt-get", "update", "-q"], "The lists of Debian packages could not be read")
        # In runlevel 1 a package starts no service.
        quiet = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        words = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        _check(words, f"{' '.join(missing)} could not be installed", quiet)
    if "en_US.utf8" not in _output("locale", "-a").split():
        _check(["localedef", "-i", "en_US", "-f", "UTF-8", "en_US.UTF-8"], "There is no locale en_US.UTF-8")


def find_or_make_user() -> pwd.struct_passwd:
    """Who builds, as root has it done. Raises NotHere."""
    try:
        return building_user()
    except NotHere:
        name = name_building_user()
        _check(["useradd", "--create-home", name], f"There is no user {name} to build as")
        return building_user()


def fetch_sources(sources: Sequence[Source], downloads: Path, work: Path) -> None:
    """Put the tarballs into `downloads`: from MEMGUARD_SOURCES, else from Debian's archive. Raises NotHere.

    work: a directory for the lists of the archive; the system's own stay as they are. What arrives is the very file
    that the table names by its SHA-256, whoever signed the list.
    """
    missing = [source for source in sources if not has_digest(downloads / source.name, source.sha256)]
    named = os.environ.get("MEMGUARD_SOURCES")
    if named:
        missing = [source for source in missing if not _take(Path(named).expanduser() / source.name, source, downloads)]
    if not missing:
        return
    apt_get = _prepare_archive(work, sorted({source.suite for source in missing}))
    for source in missing:
        words = ["source", "--download-only", "--tar-only", "--only-source", "--allow-unauthenticated"]
        subprocess.run([*apt_get, *words, f"{source.package}={source.version}"], cwd=work, capture_output=True)
    missing = [source for source in missing if not _take(work / source.orig, source, downloads)]
    if missing:
        raise NotHere(
            f"{', '.join(source.name for source in missing)} could not be had from Debian's archive; put them into a "
            "directory that MEMGUARD_SOURCES names, or do without: --recipes."
        )


def _take(found: Path, source: Source, downloads: Path) -> bool:
    """Copy a tarball, if it is the one that is wanted."""
    if not has_digest(found, source.sha256):
        return False
    shutil.copyfile(found, downloads / source.name)
    return True


def _prepare_archive(work: Path, suites: Sequence[str]) -> list[str]:
    """Read the lists of sources of these suites; the words to ask for one."""
    for part in ("lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True, exist_ok=True)
    # The mirror that this system uses.
    sites = _output("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").split()
    archive = next((site for site in sites if "debian" in site and "security" not in site), ARCHIVE)
    option = f"[signed-by={KEYS}] " if KEYS.exists() else ""
    lines = [f"deb-src {option}{archive} {suite} main\n" for suite in suites]
    (work / "sources.list").write_text("".join(lines), encoding="utf-8")
    settings = {
        "APT::Sandbox::User": "root",
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
        # A suite may be signed by a key that is younger than this system.
        "Acquire::AllowInsecureRepositories": "true",
    }
    apt_get = ["apt-get", "-q", *(f"-o={name}={value}" for name, value in settings.items())]
    subprocess.run([*apt_get, "update"], cwd=work, capture_output=True)
    return apt_get


def make_tools(directory: Path, ninja: str) -> Path:
    """The directory of programs of TOOLS and of this ninja, made if need be. Raises NotHere."""
    programs, venv, stamp = directory / "bin", directory / "venv", directory / "installed"
    packages = [*TOOLS, f"ninja=={ninja}"]
    wanted = "\n".join(packages) + "\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return programs
    shutil.rmtree(directory, ignore_errors=True)
    programs.mkdir(parents=True)
    _check([SYSTEM_PYTHON, "-m", "venv", str(venv)], f"{SYSTEM_PYTHON} makes no virtual environment")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    _check(pip, f"{' '.join(packages)} could not be installed")
    # The programs themselves: what pip has put before them is Python, and costs memory and time in each call.
    (packaged,) = venv.glob("lib/python*/site-packages")
    for name, package in {
        "cmake": "cmake",
        "cpack": "cmake",
        "ctest": "cmake",
        "meson": "meson",
        "ninja": "ninja",
    }.items():
        real = packaged / package / "data" / "bin" / name
        (programs / name).symlink_to(real if real.exists() else venv / "bin" / name)
    stamp.write_text(wanted, encoding="utf-8")
    return programs


def _output(*command: str) -> str:
    """What a command says, "" where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""


def _check(command: Sequence[str], failure: str, env: Mapping[str, str] = {}) -> None:
    """Run a command. Raises NotHere, with the last that it said, where it fails."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise NotHere(f"{failure} ({error.strerror}).") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotHere(f"{failure} ({said[-1].strip()}).")
