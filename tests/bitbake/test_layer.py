# SPDX-License-Identifier: MIT
"""The layer as others judge it: what upstream's check of layers looks at, and that its documents say what it does.

Upstream's own check runs in test_checkouts.py, where OpenEmbedded-Core is; here the same rules are held without it.
Its checks of parsing, of a world build and of signatures are builds, and are in test_build.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memguard.version import VERSION
from testbed import addresses, variables
from testbed.bitbake import BitBake

REPOSITORY = Path(__file__).resolve().parents[2]
LAYER = REPOSITORY / "meta-memguard"
# Releases that are supported, and the one that comes.
SERIES = {"scarthgap", "walnascar", "whinlatter", "wrynose"}


def test_the_readme_says_who_and_how() -> None:
    """The layer's README names maintainers, says how to send patches, and has an address to write to."""
    readme = sorted(LAYER.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*"))[0]
    text = readme.read_text(encoding="utf-8")
    # One that points to another README would be judged no further.
    assert not re.search("readme", text, re.IGNORECASE)
    assert re.search("maintainer", text, re.IGNORECASE)
    assert re.search("patch", text, re.IGNORECASE)
    assert re.search(r"\S+@\S+\.\S+", text)


def test_the_layer_says_how_to_report_a_vulnerability() -> None:
    """There is a SECURITY file in the layer itself, since layers are copied out of their repositories."""
    (found,) = LAYER.glob("SECURITY*")
    assert re.search(r"\S+@\S+\.\S+", found.read_text(encoding="utf-8"))


def test_layer_and_repository_say_the_same_of_security() -> None:
    """The two files do not drift apart."""
    assert (LAYER / "SECURITY.md").read_text(encoding="utf-8") == (REPOSITORY / "SECURITY.md").read_text(
        encoding="utf-8"
    )


def test_the_licence_is_in_the_layer() -> None:
    """Who copies the layer has its licence."""
    assert (LAYER / "COPYING.MIT").read_text(encoding="utf-8") == (REPOSITORY / "COPYING.MIT").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def parsed(bitbake: BitBake) -> dict[str, Any]:
    """conf/layer.conf as BitBake's own parser reads it."""
    program = """
import json, sys
sys.path.insert(0, sys.argv[1])
import bb.data, bb.parse
data = bb.data.init()
bb.parse.init_parser(data)
data.setVar("LAYERDIR", sys.argv[2])
data = bb.parse.handle(sys.argv[2] + "/conf/layer.conf", data, include=True, baseconfig=True)
data.expandVarref("LAYERDIR")
print(json.dumps({name: data.getVar(name) for name in data.keys() if name.startswith(("BBFILE", "LAYER"))}))
"""
    words = [sys.executable, "-c", program, str(bitbake.tree / "lib"), str(LAYER)]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_collection_is_complete(parsed: dict[str, Any]) -> None:
    """One collection, with a pattern that its own files match and others do not, a priority and a version."""
    assert parsed["BBFILE_COLLECTIONS"].split() == ["memguard"]
    pattern = parsed["BBFILE_PATTERN_memguard"]
    assert re.match(pattern, f"{LAYER}/recipes-x/x/x_1.0.bb")
    assert not re.match(pattern, f"{LAYER}-other/recipes-x/x/x_1.0.bb")
    assert int(parsed["BBFILE_PRIORITY_memguard"]) > 0
    assert parsed["LAYERVERSION_memguard"] == VERSION.partition(".")[0]
    assert parsed["LAYERDEPENDS_memguard"] == "core"


def test_the_compatible_releases_are_named(parsed: dict[str, Any]) -> None:
    """All supported releases are in LAYERSERIES_COMPAT, and the README of the repository names them."""
    compatible = set(parsed["LAYERSERIES_COMPAT_memguard"].split())
    assert compatible >= SERIES
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert all(name in readme for name in compatible)


def test_the_layer_is_a_software_layer() -> None:
    """It brings neither machines nor distributions: with both it would be refused, with one be judged as such."""
    assert not (LAYER / "conf" / "machine").exists()
    assert not (LAYER / "conf" / "distro").exists()


def test_every_patch_says_where_it_stands() -> None:
    """A patch would need a sound Upstream-Status; there is none."""
    for patch in LAYER.rglob("*.patch"):
        statuses = re.findall(r"^Upstream-Status: (\w+)", patch.read_text(encoding="utf-8"), re.MULTILINE)
        assert statuses, patch


def test_the_layer_sets_nothing_beyond_its_own_names(parsed: dict[str, Any]) -> None:
    """What its configuration sets is about itself, or added to what is there."""
    text = (LAYER / "conf" / "layer.conf").read_text(encoding="utf-8")
    names = set(re.findall(r"^([A-Z_a-z]+)\s*[?:.+]*=", text, re.MULTILINE))
    shared = {"BBPATH", "BBFILES", "BBFILE_COLLECTIONS"}
    assert {name for name in names if not name.endswith("_memguard")} <= shared


# -- documents ---------------------------------------------------------------------------------------------------------


def test_the_variables_are_those_of_the_class() -> None:
    """docs/variables.md is what scripts/variables makes of the class; run it after a change of the class."""
    text = variables.CLASS.read_text(encoding="utf-8")
    assert variables.DOCUMENT.read_text(encoding="utf-8") == variables.render(variables.read(text))


def test_a_change_of_the_class_would_be_seen(tmp_path: Path) -> None:
    """Another default, another text and a new variable each make another document."""
    text = variables.CLASS.read_text(encoding="utf-8")
    before = variables.render(variables.read(text))
    for old, new in (('MODE ?= "enforce"', 'MODE ?= "off"'), ("What memguard may do", "What memguard can do")):
        assert old in text
        assert variables.render(variables.read(text.replace(old, new))) != before
    more = text + 'MEMGUARD_NEW ?= "1"\nMEMGUARD_NEW[doc] = "New."\n'
    assert "## MEMGUARD_NEW\n\nDefault: `1`.\n\nNew." in variables.render(variables.read(more))


def test_the_changelog_begins_with_this_version() -> None:
    """Its newest heading is this version, with a date, or what comes after it."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    heading, *older = re.findall(r"^## (.*)$", text, re.MULTILINE)
    dated = older[0] if heading == "Unreleased" else heading
    assert re.fullmatch(rf"{re.escape(VERSION)} - \d{{4}}-\d\d-\d\d", dated)


@pytest.mark.parametrize("name", addresses.read())
def test_an_address_stands_in_one_place(name: str, tmp_path: Path) -> None:
    """Changing an address in conf/addresses.yml with scripts/addresses changes every file that has it."""
    address = addresses.read()[name]
    users = addresses.users(address)
    assert addresses.ADDRESSES in users
    assert len(users) > 1
    for path in users:
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert len(addresses.change(address, "https://new.test/place", tmp_path)) == len(users)
    assert not addresses.users(address, tmp_path)


def test_no_file_has_a_placeholder_of_its_own() -> None:
    """What stands under .example is an address of conf/addresses.yml, or an example of what a user has of his own."""
    own = {"db.example", "scale.example"}
    for path in addresses.files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for address in addresses.read().values():
            text = text.replace(address, "")
        assert set(re.findall(r"[\w.-]+\.example\b(?!\.)", text)) <= own, path
