# SPDX-License-Identifier: MIT
"""kas.yml and the fragments of conf/kas with real kas, offline: local repositories stand in for upstream's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from memguard import settings
from testbed import addresses
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST

REPOSITORY = Path(__file__).resolve().parents[2]
REPOSITORY_URL = addresses.read()["repository"]
# Where kas looks in place of upstream's addresses, and of ours.
PREMIRRORS = (
    f"https://git\\.openembedded\\.org/(.*)$ file://{{mirror}}/\\1\n"
    f"{re.escape(REPOSITORY_URL)}$ file://{{mirror}}/meta-memguard"
)
IGNORED = shutil.ignore_patterns("__pycache__")
# What kas sources: it sets BUILDDIR and PATH, as OpenEmbedded-Core's script of this name does.
INIT = """\
OEROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BUILDDIR=$1
mkdir -p "$BUILDDIR"
cd "$BUILDDIR"
PATH="$(dirname "$OEROOT")/bitbake/bin:$PATH"
# kas adds to this variable, which OpenEmbedded-Core's script sets; where it is not set, kas adds nothing.
BB_ENV_PASSTHROUGH_ADDITIONS="MACHINE DISTRO ${BB_ENV_PASSTHROUGH_ADDITIONS:-}"
export BUILDDIR PATH BB_ENV_PASSTHROUGH_ADDITIONS
"""


@pytest.fixture(scope="module")
def project(bitbake: BitBake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A clone of this repository beside the mirrors it needs, and the environment that leads kas to them."""
    top = tmp_path_factory.mktemp("kas")
    core = top / "src" / "openembedded-core"
    shutil.copytree(META_TEST, core / "meta", ignore=IGNORED)
    init = core / "oe-init-build-env"
    init.write_text(INIT, encoding="utf-8")
    init.chmod(0o755)
    tree = top / "src" / "bitbake"
    shutil.copytree(bitbake.tree, tree, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    # The launchers and BitBake's own configuration layer, as a checkout has them.
    _mirror(core, top / "mirror" / "openembedded-core", "wrynose")
    _mirror(tree, top / "mirror" / "bitbake", "2.18")
    # This repository as somebody else's kas file would fetch it.
    published = top / "src" / "meta-memguard"
    shutil.copytree(REPOSITORY / "meta-memguard", published / "meta-memguard", ignore=IGNORED)
    shutil.copytree(REPOSITORY / "conf", published / "conf", ignore=IGNORED)
    _mirror(published, top / "mirror" / "meta-memguard", "main")
    own = top / "work" / "meta-memguard"
    own.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "meta-memguard", own / "meta-memguard", ignore=IGNORED)
    shutil.copytree(REPOSITORY / "conf" / "kas", own / "conf" / "kas")
    shutil.copy(REPOSITORY / "kas.yml", own / "kas.yml")
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(top),
        "LANG": "C.UTF-8" if not bitbake.is_checkout else "en_US.UTF-8",
        "LC_ALL": "C.UTF-8" if not bitbake.is_checkout else "en_US.UTF-8",
        "KAS_WORK_DIR": str(top / "work"),
        "KAS_PREMIRRORS": PREMIRRORS.format(mirror=top / "mirror"),
    }
    return own, env


def _mirror(source: Path, bare: Path, branch: str) -> None:
    """Commit a directory and publish it as a bare repository with one branch."""
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
    subprocess.run(["git", "-C", str(source), "init", "-q", "-b", branch], check=True)
    subprocess.run(["git", "-C", str(source), "add", "-A", "-f"], check=True)
    subprocess.run(["git", "-C", str(source), *identity, "commit", "-qm", "stand-in"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(source), str(bare)], check=True)


def _kas(project: tuple[Path, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    own, env = project
    command = [str(Path(sys.executable).parent / "kas"), *arguments]
    return subprocess.run(command, cwd=own, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_dump_names_a_released_series(project: tuple[Path, dict[str, str]]) -> None:
    """`kas dump` accepts the file: upstream's two repositories at one release, core-image-minimal, memguard on."""
    dump = _kas(project, "dump", "kas.yml")
    assert dump.returncode == 0, dump.stderr
    config = yaml.safe_load(dump.stdout)
    assert config["machine"] == "qemux86-64"
    assert config["target"] == "core-image-minimal"
    assert {name: repo.get("branch") for name, repo in config["repos"].items()} == {
        "meta-memguard": None,
        "bitbake": "2.18",
        "openembedded-core": "wrynose",
    }
    assert config["local_conf_header"]["memguard"].strip() == 'INHERIT += "memguard"'


def test_build_runs_with_memguard_on(project: tuple[Path, dict[str, str]]) -> None:
    """`kas build` with the file as it is, but for a small target, builds with memguard; so it does on a small disk.

    What a container says in its environment reaches the build.
    """
    own, env = project
    told = (own, {**env, "MEMGUARD_LIMIT": "3221225472", "BB_NUMBER_THREADS": "3"})
    built = _kas(told, "build", "--target", "tiny-01", "kas.yml:conf/kas/small-disk.yml")
    output = built.stdout + built.stderr
    assert built.returncode == 0, output
    assert "memguard: limit 3.0 GiB (MEMGUARD_LIMIT)" in output
    assert "memguard: peak " in output
    assert "all succeeded" in output


# -- fragments, included from another repository -----------------------------------------------------------------------

# What somebody with a product of their own writes.
PRODUCT = """\
header:
  version: 18
  includes:
    - repo: meta-memguard
      file: conf/kas/{fragment}.yml
machine: qemux86-64
distro: nodistro
target: tiny-01
repos:
  meta-memguard:
    url: {repository}
    branch: main
  bitbake:
    url: https://git.openembedded.org/bitbake
    branch: "2.18"
    layers:
      bitbake: disabled
  openembedded-core:
    url: https://git.openembedded.org/openembedded-core
    branch: wrynose
    layers:
      meta:
bblayers_conf_header:
  standard: |
    BBPATH = "${{TOPDIR}}"
    BBFILES ?= ""
"""


@pytest.fixture(scope="module")
def product(
    project: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """Another repository, whose kas files include the fragments; its work directory is its own."""
    _, env = project
    top = tmp_path_factory.mktemp("product")
    own = top / "product"
    own.mkdir()
    for fragment in ("memguard", "memguard-observe"):
        (own / f"{fragment}.yml").write_text(
            PRODUCT.format(fragment=fragment, repository=REPOSITORY_URL), encoding="utf-8"
        )
    config = next(part for part in _kubernetes() if part["kind"] == "ConfigMap")
    (own / "kubernetes.yml").write_text(config["data"]["build.yml"], encoding="utf-8")
    return own, {**env, "KAS_WORK_DIR": str(top)}


def _kubernetes() -> list[dict[str, Any]]:
    text = (REPOSITORY / "conf" / "kubernetes" / "build-job.yml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("name", ["memguard", "memguard-observe", "kubernetes"])
def test_a_fragment_is_included_from_another_repository(product: tuple[Path, dict[str, str]], name: str) -> None:
    """`kas dump` fetches this repository, adds its layer and switches memguard on."""
    dump = _kas(product, "dump", f"{name}.yml")
    assert dump.returncode == 0, dump.stderr
    config = yaml.safe_load(dump.stdout)
    assert "meta-memguard" in config["repos"]["meta-memguard"]["layers"]
    assert config["local_conf_header"]["memguard"].strip() == 'INHERIT += "memguard"'
    assert ("memguard-observe" in config["local_conf_header"]) == (name == "memguard-observe")
    assert set(config["env"]) <= {*settings.VARIABLES, "BB_NUMBER_THREADS", "PARALLEL_MAKE"}


def test_the_environment_reaches_bitbake(product: tuple[Path, dict[str, str]]) -> None:
    """A limit that a container platform says, in bytes as Kubernetes does, is the build's; observe is observe."""
    own, env = product
    told = {"MEMGUARD_LIMIT": "3221225472", "MEMGUARD_HISTORY": f"{own}/history.db"}
    shown = _kas((own, {**env, **told}), "shell", "-c", "bitbake -e", "memguard-observe.yml")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    values = dict(line.split("=", 1) for line in shown.stdout.splitlines() if line.startswith("MEMGUARD_"))
    assert values["MEMGUARD_LIMIT"] == '"3221225472"'
    assert values["MEMGUARD_HISTORY"] == f'"{own}/history.db"'
    assert values["MEMGUARD_MODE"] == '"observe"'
    # What the environment does not say is the class's default.
    assert values["MEMGUARD_RESERVE"] == '""'
