# SPDX-License-Identifier: MIT
"""OpenEmbedded's own ways to switch memguard on: fragments, and bitbake-setup with the configurations of conf.

Real BitBake and real bitbake-setup, both from the package registry; a small core of our own stands in for upstream's.
With upstream's trees, `bitbake-layers` and `bitbake-config-build` the same is tried in test_checkouts.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memguard import settings
from testbed import addresses, builddir
from testbed.bitbake import BitBake, environment
from testbed.builddir import META_TEST
from testbed.events import read_events

REPOSITORY = Path(__file__).resolve().parents[2]
META_MEMGUARD = REPOSITORY / "meta-memguard"
FRAGMENTS = META_MEMGUARD / "conf" / "fragments"
REGISTRY = REPOSITORY / "conf" / "bitbake-setup"
CONFIGURATIONS = sorted((REGISTRY / "configurations").glob("*.conf.json"))

# The statement of BitBake 2.16 and later that OpenEmbedded-Core ends its configuration with.
ADD_FRAGMENTS = """
OE_FRAGMENTS_METADATA_VARS = "BB_CONF_FRAGMENT_SUMMARY BB_CONF_FRAGMENT_DESCRIPTION"
OE_FRAGMENTS_BUILTIN = "machine:MACHINE distro:DISTRO"
addfragments conf/fragments OE_FRAGMENTS OE_FRAGMENTS_METADATA_VARS OE_FRAGMENTS_BUILTIN
"""
# What is sourced before a build: upstream's says the same variables.
INIT = """\
BUILDDIR=$1
CORE=$PWD
cd "$BUILDDIR"
PATH="$CORE/scripts:$CORE/../bitbake/bin:$PATH"
BBPATH=$BUILDDIR
export BUILDDIR PATH BBPATH
"""
# Stands in for bitbake-config-build, which needs more of BitBake than the registry has.
ENABLE_FRAGMENT = """\
#!/bin/sh
test "$1" = enable-fragment && shift
echo "OE_FRAGMENTS += \\"$*\\"" >> conf/auto.conf
"""


def _name(fragment: Path) -> str:
    """What users write: the collection, and the path below conf/fragments."""
    return f"memguard/{fragment.relative_to(FRAGMENTS).with_suffix('')}"


def _fragments() -> dict[str, Path]:
    return {_name(path): path for path in sorted(FRAGMENTS.rglob("*.conf"))}


@pytest.fixture(scope="module")
def with_fragments(bitbake: BitBake) -> BitBake:
    """A BitBake that knows fragments in today's form."""
    if tuple(map(int, bitbake.version.split(".")[:2])) < (2, 16):
        pytest.skip(f"BitBake {bitbake.version} has no fragments in this form")
    return bitbake


@pytest.mark.parametrize("fragment", _fragments().values(), ids=lambda path: path.stem)
def test_a_fragment_says_what_it_does(fragment: Path) -> None:
    """Upstream's tool refuses one without a summary, of one line, and a description."""
    text = fragment.read_text(encoding="utf-8").replace("\\\n", "")
    summary = re.search(r'^BB_CONF_FRAGMENT_SUMMARY = "(.+)"$', text, re.MULTILINE)
    description = re.search(r'^BB_CONF_FRAGMENT_DESCRIPTION = "(.+)"$', text, re.MULTILINE)
    assert summary
    assert len(summary[1]) < 100
    assert description
    assert len(description[1]) > len(summary[1])


@pytest.mark.parametrize("name", _fragments())
def test_a_fragment_switches_memguard_on(with_fragments: BitBake, tmp_path: Path, name: str) -> None:
    """With the line that bitbake-config-build writes, a build is guarded, or observed, as the name says."""
    conf = f'OE_FRAGMENTS += "{name}"\n{ADD_FRAGMENTS}'
    build = builddir.make(tmp_path / "build", [META_TEST, META_MEMGUARD], conf)
    result = builddir.run(with_fragments, build, "tiny-01")
    assert result.returncode == 0, result.output
    assert "memguard: peak" in result.output
    (start,) = (event for event in read_events(build) if event["event"] == "build_start")
    assert start["mode"] == {"memguard/memguard/enable": "enforce", "memguard/memguard/observe": "observe"}[name]


# -- bitbake-setup -----------------------------------------------------------------------------------------------------


def _configuration(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_a_configuration_names_what_is_there(path: Path) -> None:
    """Sources have an address and a revision, layers lie in sources, fragments and variables exist.

    That upstream's schema takes it is tried in test_checkouts.py, where the schema is.
    """
    found = _configuration(path)
    assert set(found) == {"description", "sources", "bitbake-setup", "version"}
    for source in found["sources"].values():
        assert set(source["git-remote"]) == {"uri", "branch", "rev"}
    assert found["sources"]["meta-memguard"]["git-remote"]["uri"] == addresses.read()["repository"]
    (parent,) = found["bitbake-setup"]["configurations"]
    assert all(layer.partition("/")[0] in found["sources"] for layer in parent["bb-layers"])
    assert (REPOSITORY / parent["bb-layers"][1].partition("/")[2] / "conf" / "layer.conf").is_file()
    assert set(parent["bb-env-passthrough-additions"]) <= set(settings.VARIABLES)
    enabled = {name for child in parent["configurations"] for name in child["oe-fragments"]}
    assert enabled == set(_fragments())


def _commit(tree: Path) -> None:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
    for words in (["init", "-q"], ["add", "-A", "-f"], [*identity, "commit", "-qm", "stand-in"]):
        subprocess.run(["git", "-C", str(tree), *words], check=True)


@pytest.fixture
def sources(with_fragments: BitBake, tmp_path: Path) -> dict[str, Path]:
    """What bitbake-setup is to take in place of the repositories that the configuration names."""
    core = tmp_path / "core"
    shutil.copytree(META_TEST, core / "meta", ignore=shutil.ignore_patterns("__pycache__"))
    with open(core / "meta" / "conf" / "bitbake.conf", "a", encoding="utf-8") as conf:
        conf.write(ADD_FRAGMENTS)
    (core / "oe-init-build-env").write_text(INIT, encoding="utf-8")
    (core / "scripts").mkdir()
    # By this one bitbake-setup knows which of the sources is the core.
    (core / "scripts" / "oe-setup-build").touch()
    tool = core / "scripts" / "bitbake-config-build"
    tool.write_text(ENABLE_FRAGMENT, encoding="utf-8")
    tool.chmod(0o755)
    own = tmp_path / "own"
    shutil.copytree(META_MEMGUARD, own / "meta-memguard", ignore=shutil.ignore_patterns("__pycache__"))
    return {"bitbake": with_fragments.tree, "openembedded-core": core, "meta-memguard": own}


def test_bitbake_setup_makes_a_guarded_build(with_fragments: BitBake, sources: dict[str, Path], tmp_path: Path) -> None:
    """bitbake-setup finds the configuration in our registry, sets up a build directory, and its build is guarded."""
    if with_fragments.is_checkout:
        pytest.skip("test_checkouts.py has this with a checkout")
    env = {**environment(with_fragments, tmp_path), "PYTHONPATH": str(with_fragments.tree / "lib")}
    top = tmp_path / "top"
    top.mkdir()
    tool = [sys.executable, "-m", "bitbake_setup"]
    for name, value in (("top-dir-prefix", tmp_path), ("top-dir-name", "top"), ("registry", REGISTRY)):
        tool += ["--setting", "default", name, str(value)]
    listed = subprocess.run([*tool, "list"], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert "memguard-wrynose" in listed.stdout, listed.stdout + listed.stderr
    words = ["init", "--non-interactive", "--no-init-vscode", "memguard-wrynose", "memguard", "machine/qemux86-64"]
    for name, path in sources.items():
        words += ["-L", name, str(path)]
    made = subprocess.run([*tool, *words], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    build = top / "memguard-wrynose" / "build"
    program = f'. {build}/init-build-env >/dev/null && exec {sys.executable} "$(command -v bitbake)" tiny-01'
    said = {**env, "MEMGUARD_LIMIT": "3221225472", "BB_SERVER_TIMEOUT": "0"}
    del said["PYTHONPATH"]
    built = subprocess.run(["bash", "-c", program], env=said, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "memguard: limit 3.0 GiB (MEMGUARD_LIMIT)" in built.stdout
    assert list((build / "memguard" / "events").iterdir())
