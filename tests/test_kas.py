# SPDX-License-Identifier: MIT
"""kas.yml with real kas, offline: local repositories stand in for upstream's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testbed.bitbake import BitBake
from testbed.builddir import META_TEST

REPOSITORY = Path(__file__).resolve().parents[1]
# What kas sources: it sets BUILDDIR and PATH, as OpenEmbedded-Core's script of this name does.
INIT = """\
BUILDDIR=$1
mkdir -p "$BUILDDIR"
cd "$BUILDDIR"
PATH="$(dirname "$OEROOT")/bitbake/bin:$PATH"
export BUILDDIR PATH
"""


@pytest.fixture(scope="module")
def project(bitbake: BitBake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A clone of this repository beside the mirrors it needs, and the environment that leads kas to them."""
    top = tmp_path_factory.mktemp("kas")
    core = top / "src" / "openembedded-core"
    shutil.copytree(META_TEST, core / "meta", ignore=shutil.ignore_patterns("__pycache__"))
    init = core / "oe-init-build-env"
    init.write_text(f'OEROOT="{top / "work" / "openembedded-core"}"\n{INIT}', encoding="utf-8")
    init.chmod(0o755)
    tree = top / "src" / "bitbake"
    shutil.copytree(bitbake.tree, tree, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    # The launchers and BitBake's own configuration layer, as a checkout has them.
    _mirror(core, top / "mirror" / "openembedded-core", "wrynose")
    _mirror(tree, top / "mirror" / "bitbake", "2.18")
    own = top / "work" / "meta-memguard"
    own.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "meta-memguard", own / "meta-memguard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "kas.yml", own / "kas.yml")
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(top),
        "LANG": "C.UTF-8" if not bitbake.is_checkout else "en_US.UTF-8",
        "LC_ALL": "C.UTF-8" if not bitbake.is_checkout else "en_US.UTF-8",
        "KAS_WORK_DIR": str(top / "work"),
        "KAS_PREMIRRORS": f"https://git\\.openembedded\\.org/(.*)$ file://{top}/mirror/\\1",
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
    """`kas build` with the file as it is, but for a small target, builds with memguard."""
    built = _kas(project, "build", "--target", "tiny-01", "kas.yml")
    output = built.stdout + built.stderr
    assert built.returncode == 0, output
    assert "memguard: peak " in output
    assert "all succeeded" in output
