# SPDX-License-Identifier: MIT
"""Upstream's own trees with memguard: its tests of the run queue, OE-core's signatures, dry runs, builds, layer check.

These need clones that are not fetched here; MEMGUARD_CHECKOUTS names the directory that holds them (see
scripts/checkouts). MEMGUARD_CHECKOUT_WORK names a place to work that is kept, so that later runs parse less.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kas
import pytest
import referencing

from testbed import addresses
from testbed.checkouts import (
    FEW_RECIPES,
    IMAGE,
    LOCAL_CONF,
    REPOSITORY,
    SERIES,
    SMALL_WORLD,
    NotHere,
    OeBuild,
    Workspace,
    clone,
    events_below,
    faults,
    provide_source,
    workspace,
)

pytestmark = [pytest.mark.checkout, pytest.mark.timeout(7200)]

# BitBake picks the scheduler and nothing else of the layer is there.
SCHEDULER_CONF = """\
addpylib {layer}/lib memguard
BB_SCHEDULERS = "memguard.bitbake.scheduler.MemguardScheduler"
BB_SCHEDULER = "memguard"
MEMGUARD_DIR = "{told}/${{@os.path.basename(d.getVar('TOPDIR'))}}"
"""
# The whole layer, and so little memory that every task is held until it is alone.
TIGHT_CONF = """\
addpylib {layer}/lib memguard
BBPATH .= ":{layer}"
INHERIT += "memguard"
MEMGUARD_LIMIT = "64M"
MEMGUARD_DIR = "{told}/${{@os.path.basename(d.getVar('TOPDIR'))}}"
"""

IDENTITY = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
SOURCES = {"zip": "recipes-extended/zip/zip_3.0.bb", "unzip": "recipes-extended/unzip/unzip_6.0.bb"}


@pytest.fixture(scope="module")
def place() -> Iterator[Workspace]:
    """Return a place to build in for all tests here."""
    if not os.environ.get("MEMGUARD_CHECKOUTS"):
        pytest.skip("MEMGUARD_CHECKOUTS names no directory with clones of BitBake and OpenEmbedded-Core")
    try:
        with workspace() as made:
            yield made
    except NotHere as missing:
        pytest.skip(str(missing))


def oe_build(place: Workspace, series: str, name: str = "", conf: str = "") -> OeBuild:
    """Return the build directory for a release, or skip the test."""
    try:
        return OeBuild(place, series, name, conf)
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("conf", [SCHEDULER_CONF, TIGHT_CONF], ids=["scheduler", "tight"])
@pytest.mark.parametrize("version", SERIES.values())
def test_upstreams_tests_of_the_run_queue_pass(place: Workspace, version: str, conf: str) -> None:
    """BitBake's selftest passes with memguard as its scheduler, which did schedule, and without a fault."""
    try:
        bitbake = clone(f"bitbake-{version}")
    except NotHere as missing:
        pytest.skip(str(missing))
    work = place.path / f"selftest-{version}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    post = work / "post.conf"
    post.write_text(conf.format(layer=place.layer, told=work / "told"), encoding="utf-8")
    place.hand_over(work, post)
    env = place.environment(bitbake, BBPOSTCONF=str(post))
    result = place.run([str(bitbake / "bin" / "bitbake-selftest"), "bb.tests.runqueue"], env)
    assert result.returncode == 0, result.output
    ran = re.search(r"^Ran (\d+) tests", result.output, re.MULTILINE)
    assert ran is not None, result.output
    assert int(ran.group(1)) >= 20
    assert re.search(r"^OK$", result.output, re.MULTILINE), "some tests were skipped: " + result.output
    assert faults(work / "told") == ""
    grants = events_below(work / "told", "grant")
    print(f"BitBake {version}: {ran.group(1)} tests, {len(grants)} tasks granted, {result.cpu_s:.0f} s CPU")
    assert len(grants) >= 300
    if conf is TIGHT_CONF:
        assert len(events_below(work / "told", "hold")) >= 20
    assert result.leftover == ()


@pytest.mark.parametrize("series", ["wrynose", "scarthgap"])
def test_signatures_stay_as_they_are(place: Workspace, series: str) -> None:
    """Every task of the image has the same hash without the layer, with it, and with memguard switched on."""
    build = oe_build(place, series)
    found = {}
    for variant in ("stock", "layer", "memguard"):
        build.configure(variant)
        found[variant] = build.signatures()
    print(f"{series}: {len(found['stock'])} signatures")
    assert len(found["stock"]) > 1000
    assert found["layer"] == found["stock"]
    assert found["memguard"] == found["stock"]


@pytest.mark.parametrize("series", ["wrynose", "scarthgap"])
def test_dry_run_of_an_image_succeeds(place: Workspace, series: str) -> None:
    """`bitbake -n` goes through all tasks of the image with memguard switched on."""
    build = oe_build(place, series)
    build.configure("memguard")
    result = build.run("bitbake", "-n", IMAGE)
    assert result.returncode == 0, result.output
    tasks = re.search(r"Attempted (\d+) tasks", result.output)
    assert tasks is not None, result.output
    assert int(tasks.group(1)) > 1000
    assert "all succeeded" in result.output
    assert faults(build.path / "memguard") == ""
    assert result.leftover == ()


@pytest.mark.parametrize("series", SERIES)
def test_native_recipes_build(place: Workspace, series: str) -> None:
    """Recipes of OE-core build for the build host, each task on a grant, one of them with a single job."""
    build = oe_build(place, series, f"native-{series}", FEW_RECIPES)
    recipes = ["makedevs"]
    for name, path in SOURCES.items():
        try:
            provide_source(build.oe / "meta" / path, name, place)
        except NotHere as missing:
            print(f"{name}-native is left out: {missing}")
        else:
            recipes.append(name)
    build.forget_results()
    # No machine has memory for two jobs of zip.
    footprint = 'MEMGUARD_FOOTPRINT:pn-zip-native = "do_compile:base=10M,per_job=900G"\n'
    build.configure("memguard", f'PARALLEL_MAKE = "-j 4"\n{footprint}')
    result = build.run("bitbake", *(f"{name}-native" for name in recipes))
    assert result.returncode == 0, result.output
    assert faults(build.path / "memguard") == ""
    grants = events_below(build.path / "memguard", "grant")
    granted = {(grant["recipe"], grant["task"]): grant["jobs"] for grant in grants}
    print(f"{series}: {', '.join(recipes)}: {len(grants)} tasks granted, {result.cpu_s:.0f} s CPU")
    for name in recipes:
        jobs = 1 if name == "zip" else 4
        assert granted[(f"{name}-native", "do_compile")] == jobs
    if "zip" in recipes:
        (log,) = (build.path / "tmp" / "work").glob("*/zip-native/*/temp/log.do_compile")
        assert "memguard: starts with 1 job: PARALLEL_MAKE = -j 1" in log.read_text(encoding="utf-8", errors="replace")
    assert "memguard: peak" in result.output
    assert result.leftover == ()


@pytest.mark.parametrize("world", [pytest.param(SMALL_WORLD, id="small"), pytest.param("", id="whole")])
@pytest.mark.parametrize("series", ["wrynose", "master"])
def test_yocto_check_layer_passes(place: Workspace, series: str, world: str) -> None:
    """The project's own check of a layer passes: files, compatibility, parsing, and no signature changed."""
    # The check edits the configuration: no other test uses this directory.
    build = oe_build(place, series, f"check-{series}", world)
    build.configure("stock")
    result = build.run("yocto-check-layer", str(place.layer), timeout=7000)
    print(result.output)
    assert result.returncode == 0, result.output
    assert "FAIL" not in result.output
    assert result.leftover == ()


@pytest.mark.parametrize("series", ["whinlatter", "wrynose", "master"])
def test_the_tools_of_a_build_directory_switch_memguard_on(place: Workspace, series: str) -> None:
    """bitbake-layers adds the layer, bitbake-config-build lists and enables the fragments, and a build is guarded."""
    build = oe_build(place, series, f"tools-{series}", FEW_RECIPES)
    build.configure("stock", 'MEMGUARD_LIMIT = "2G"\n')
    added = build.run("bitbake-layers", "add-layer", str(place.layer))
    assert added.returncode == 0, added.output
    listed = build.run("bitbake-config-build", "list-fragments")
    for name in ("enable", "observe"):
        assert re.search(rf"^memguard/memguard/{name}\t\S", listed.output, re.MULTILINE), listed.output
    enabled = build.run("bitbake-config-build", "enable-fragment", "memguard/memguard/enable")
    assert enabled.returncode == 0, enabled.output
    result = build.run("bitbake", "makedevs-native")
    assert result.returncode == 0, result.output
    assert "memguard: limit 2.0 GiB (MEMGUARD_LIMIT)" in result.output
    assert faults(build.path / "memguard") == ""
    disabled = build.run("bitbake-config-build", "disable-fragment", "memguard/memguard/enable")
    assert disabled.returncode == 0, disabled.output
    assert "memguard: " not in build.run("bitbake", "-n", "makedevs-native").output
    removed = build.run("bitbake-layers", "remove-layer", "meta-memguard")
    assert removed.returncode == 0, removed.output
    assert result.leftover == ()


@pytest.mark.parametrize("series", ["wrynose", "master"])
def test_bitbake_setup_takes_the_configuration(place: Workspace, series: str) -> None:
    """Upstream's schema takes the file, bitbake-setup makes a build directory of it, and its build is guarded."""
    build = oe_build(place, series, f"setup-{series}", FEW_RECIPES)
    registry = REPOSITORY / "conf" / "bitbake-setup"
    schemas = {path.name: json.loads(path.read_text()) for path in (build.bitbake / "setup-schema").glob("*.json")}
    resources = [(name, referencing.Resource.from_contents(schema)) for name, schema in schemas.items()]
    validator = jsonschema.Draft202012Validator(
        schemas["bitbake-setup.schema.json"], registry=referencing.Registry().with_resources(resources)
    )
    for path in (registry / "configurations").glob("*.conf.json"):
        validator.validate(json.loads(path.read_text(encoding="utf-8")))
    top = place.path / f"setup-{series}"
    shutil.rmtree(top, ignore_errors=True)
    own = top / "own"
    shutil.copytree(place.layer, own / "meta-memguard", ignore=shutil.ignore_patterns("__pycache__"))
    (top / "site.conf").write_text(build.conf.replace('MACHINE = "qemux86-64"', "").replace("DISTRO =", "DISTRO ?="))
    shutil.copytree(registry, top / "registry")
    place.hand_over(top, *top.rglob("*"))
    words = ["init", "--non-interactive", "--no-init-vscode", f"memguard-{series}", "memguard", "machine/qemux86-64"]
    for name, path in (("bitbake", build.bitbake), ("openembedded-core", build.oe), ("meta-memguard", own)):
        words += ["-L", name, str(path)]
    tool = [str(build.bitbake / "bin" / "bitbake-setup")]
    for name, value in (("top-dir-prefix", top.parent), ("top-dir-name", top.name), ("registry", top / "registry")):
        tool += ["--setting", "default", name, str(value)]
    made = place.run([*tool, *words], place.environment(build.bitbake), timeout=600)
    assert made.returncode == 0, made.output
    directory = top / f"memguard-{series}" / "build"
    program = f". {directory}/init-build-env >/dev/null && exec bitbake makedevs-native"
    told = place.environment(build.bitbake, MEMGUARD_LIMIT="3221225472")
    result = place.run(["bash", "-c", program], told, timeout=3600)
    assert result.returncode == 0, result.output
    assert "memguard: limit 3.0 GiB (MEMGUARD_LIMIT)" in result.output
    assert faults(directory / "memguard") == ""
    assert result.leftover == ()


# What somebody with a product of their own writes; the environment says the limit, as a container platform does.
KAS_FILE = """\
header:
  version: 18
  includes:
    - repo: meta-memguard
      file: conf/kas/memguard.yml
machine: qemux86-64
distro: nodistro
target: makedevs-native
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
    BBPATH = "${TOPDIR}"
    BBFILES ?= ""
local_conf_header:
  offline: |
"""


def test_kas_builds_with_the_fragment(place: Workspace) -> None:
    """Real kas fetches upstream's repositories and this one, and a recipe is built under the environment's limit."""
    work, mirror = place.path / "kas", place.path / "mirror"
    for path in (work, mirror):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    try:
        branches = {clone("bitbake-2.18"): "2.18", clone("openembedded-core-wrynose"): "wrynose"}
    except NotHere as missing:
        pytest.skip(str(missing))
    for tree, branch in branches.items():
        publish(tree, mirror / tree.name.rpartition("-")[0], branch)
    own = work / "published"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(place.layer, own / "meta-memguard", ignore=ignored)
    shutil.copytree(REPOSITORY / "conf", own / "conf", ignore=ignored)
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*IDENTITY, "commit", "-qm", "stand-in"]):
        subprocess.run(["git", "-C", str(own), *words], check=True)
    publish(own, mirror / "meta-memguard", "main")
    shutil.rmtree(own)
    own_address = addresses.read()["repository"]
    (work / "product").mkdir()
    conf = "".join(f"    {line}\n" for line in LOCAL_CONF.splitlines() if line and line[0] not in "MD#")
    (work / "product" / "kas.yml").write_text(KAS_FILE.replace("{repository}", own_address) + conf, encoding="utf-8")
    # git trusts only what belongs to the user.
    place.hand_over(work, *work.rglob("*"), mirror, *mirror.rglob("*"))
    env = {
        **place.environment(place.path),
        "KAS_WORK_DIR": str(work),
        "KAS_CLONE_DEPTH": "1",
        "KAS_PREMIRRORS": f"https://git\\.openembedded\\.org/(.*)$ file://{mirror}/\\1\n"
        f"{re.escape(own_address)}$ file://{mirror}/meta-memguard",
        "MEMGUARD_LIMIT": "2147483648",
    }
    # The Python of the tests may be where the building user cannot go; the system's runs the same kas.
    env["PYTHONPATH"] = str(Path(kas.__file__).parents[1])
    if place.run(["python3", "-c", "import kas.kas"], env, timeout=60).returncode != 0:
        pytest.skip("kas does not run with the Python in the PATH of the building user")
    result = place.run(["python3", "-m", "kas", "build", str(work / "product" / "kas.yml")], env, timeout=3600)
    print(f"kas: {result.cpu_s:.0f} s CPU")
    assert result.returncode == 0, result.output
    assert "memguard: limit 2.0 GiB (MEMGUARD_LIMIT)" in result.output
    assert "all succeeded" in result.output
    assert faults(work / "build" / "memguard") == ""
    assert events_below(work / "build" / "memguard", "grant")
    assert result.leftover == ()


def publish(source: Path, bare: Path, branch: str) -> None:
    """A bare repository of one branch, as kas would find it upstream."""
    subprocess.run(["git", "clone", "-q", "--bare", "--no-hardlinks", str(source), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "branch", "-f", branch, "HEAD"], capture_output=True, check=False)
