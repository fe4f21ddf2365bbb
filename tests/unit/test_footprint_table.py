# SPDX-License-Identifier: MIT
"""How the table of known footprints follows from sourced facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from memguard.predict.footprints import read_table
from memguard.predict.kinds import KINDS
from testbed import footprints
from testbed.footprints import BadFact, Row, Size

CMAKE = "a C++ build (cmake, qmake)"
SOURCES = {
    "seen": {"who": "us", "what": "buildstats", "date": "2026-01-31", "url": "https://example.org/seen"},
    "said": {"who": "them", "what": "a spec", "date": "2026-02-01", "url": "https://example.org/x", "measured": False},
}
KEPT = ["llvm", "ghc", "openjdk-*", "uutils-coreutils", "mariadb", "mongodb", "boost"]


def rows(directory: Path, *told: dict[str, Any]) -> list[Row]:
    """What the rules make of these rows of the file."""
    full = [{"recipe": f"r{number}", "task": "do_compile", **row} for number, row in enumerate(told)]
    path = directory / "facts.yml"
    path.write_text(yaml.safe_dump({"sources": SOURCES, "rows": full}))
    return footprints.read(path)


def test_the_table_is_what_the_facts_say() -> None:
    """Run scripts/footprints after a change of the facts."""
    assert footprints.TABLE.read_text(encoding="utf-8") == footprints.render(footprints.read())
    assert len(read_table()) == len(footprints.read())


def test_a_table_that_was_changed_by_hand_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--check has status 1 then and writes nothing; without it the table is written anew."""
    table = tmp_path / "table.csv"
    table.write_text("mine")
    monkeypatch.setattr(footprints, "TABLE", table)
    assert footprints.main(["--check"]) == 1
    assert table.read_text() == "mine"
    assert footprints.main([]) == footprints.main(["--check"]) == 0
    assert footprints.main(["--chekc"]) == 2


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"rule": "parallel", "facts": [{"process": 2005, "source": "seen"}]}, Size(64, 1003, 2005, ("serial",))),
        ({"rule": "parallel", "facts": [{"process": 90, "source": "said"}]}, Size(64, 64, 90)),
        ({"rule": "dominated", "facts": [{"process": 1201, "source": "seen"}]}, Size(64, 300, 1201, ("serial",))),
        ({"rule": "small", "job": 100, "facts": [{"process": 300, "source": "seen"}]}, Size(64, 100, 300, ("serial",))),
        ({"rule": "whole", "facts": [{"task": 412, "source": "seen"}]}, Size(64, 0, 412, ("serial",))),
        ({"rule": "job", "facts": [{"job": 800, "source": "seen"}]}, Size(64, 800, 1600, ("per_job",))),
        (
            {"rule": "job", "base": 200, "facts": [{"job": 800, "source": "said"}, {"link": 3000, "source": "seen"}]},
            Size(200, 800, 3000, ("serial",)),
        ),
        ({"rule": "job", "facts": [{"job": 800, "source": "seen", "measured": False}]}, Size(64, 800, 1600)),
        ({"rule": "total", "kind": CMAKE, "facts": [{"total": 2048, "source": "said"}]}, Size(64, 256, 512)),
        ({"rule": "total", "kept": True, "facts": [{"total": 10240, "source": "said"}]}, Size(64, 1280, 2560)),
        (
            {"rule": "total", "base": 200, "kept": True, "facts": [{"total": 8200, "source": "said"}]},
            Size(200, 1000, 2200),
        ),
        ({"task": "do_install", "rule": "parallel", "facts": [{"process": 90, "source": "said"}]}, Size(64, 45, 90)),
        ({"rule": "dominated", "facts": [{"process": 90, "source": "said"}]}, Size(64, 64, 90)),
        ({"guard": "compiles nothing"}, Size(64, 64, 0)),
    ],
)
def test_rules(told: dict[str, Any], size: Size, tmp_path: Path) -> None:
    """Each rule gives three numbers, and says which of them were measured."""
    (row,) = rows(tmp_path, told)
    assert row.size == size


@pytest.mark.parametrize("fact", [{"total": 65536}, {"bound": 16384}])
def test_a_bound_is_never_worse_than_the_kind(fact: dict[str, int], tmp_path: Path) -> None:
    """What a packager asks for is more than anybody has seen, so it may lower what a kind is thought to take only."""
    rule = "total" if "total" in fact else "parallel"
    (row,) = rows(tmp_path, {"rule": rule, "kind": CMAKE, "facts": [{**fact, "source": "seen"}]})
    guess = next(kind for kind in KINDS if kind.name == CMAKE).footprint
    for jobs in (1, 2, 8, 64):
        assert max(row.size.base + row.size.per_job * jobs, row.size.serial) << 20 <= guess.peak_bytes(jobs)
    assert row.size.measured == ()


def test_only_old_rows_rest_on_bounds_alone() -> None:
    """They are listed here, so that none joins them by mistake."""
    told = yaml.safe_load(footprints.FACTS.read_text(encoding="utf-8"))
    assert sorted(row["recipe"] for row in told["rows"] if row.get("kept")) == sorted(KEPT)


def test_a_row_like_another_measured_nothing(tmp_path: Path) -> None:
    """It has the other's numbers, and says why; the other may stand below it."""
    seen = {"rule": "whole", "facts": [{"task": 412, "source": "seen", "note": "a clone"}]}
    like, other = rows(tmp_path, {"like": "r1", "because": "the same code", "source": "said"}, seen)
    assert like.size == Size(64, 0, 412)
    assert like.source == "as r1: the same code, them, a spec, 2026-02-01"
    assert other.source == "whole: 412 MiB the whole task (a clone), us, buildstats, 2026-01-31"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"rule": "parallel", "facts": [{"job": 5, "source": "seen"}]}, "needs a fact about process or bound"),
        ({"rule": "parallel", "facts": [{"process": 5, "source": "nobody"}]}, "'nobody' is none of the sources"),
        ({"rule": "parallel", "facts": [{"process": "5G", "source": "seen"}]}, "'5G' is no size in whole MiB"),
        ({"rule": "parallel", "facts": [{"process": 5, "job": 5, "source": "seen"}]}, "one of process, link"),
        ({"rule": "guess", "facts": [{"process": 5, "source": "seen"}]}, "'guess' is none of the rules"),
        ({"rule": "total", "facts": [{"total": 5, "source": "seen"}]}, "needs the name of its kind"),
        ({"like": "zlib"}, "'zlib' is no row with facts"),
        ({"facts": []}, "'rule' is missing"),
        ({"task": 5, "guard": "x"}, "task: 5 is not text"),
        ({"facts": 5}, "facts: 5 is not a list"),
        ({"facts": [5]}, "5 is no mapping of process, link"),
        ({"facts": [{"proces": 5, "source": "seen"}]}, "'proces' is none of process, link"),
        ({"facts": [{"process": 5, "source": "seen", "measred": False}]}, "'measred' is none of process, link"),
        ({"rule": "job", "bsae": 5, "facts": [{"job": 5, "source": "seen"}]}, "'bsae' is none of recipe, task"),
        ({"rule": "job", "base": "5G", "facts": [{"job": 5, "source": "seen"}]}, "base: '5G' is no size in whole MiB"),
        ({"rule": "small", "job": -5, "facts": [{"process": 5, "source": "seen"}]}, "job: -5 is no size in whole MiB"),
    ],
)
def test_a_bad_fact_is_one_sentence(told: dict[str, Any], words: str, tmp_path: Path) -> None:
    """It names the file and the row, and shows a good one."""
    with pytest.raises(BadFact) as bad:
        rows(tmp_path, told)
    assert words in str(bad.value)
    assert f"facts.yml: r0 {told.get('task', 'do_compile')}: " in str(bad.value)
    assert "a good row is: {recipe: zlib" in str(bad.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "None is no mapping of sources, rows"),
        ("rows: [", "while parsing"),
        ("sources: {seen: {who: us}}", ": 'rows' is missing"),
        ("rows: []", "'sources' is missing"),
        ("sources: {}\nrows: 5", "rows: 5 is not a list"),
        ("sources: {}\nrows: [5]", "a row: 5 is no mapping of recipe, task"),
        ("sources: {seen: 5}\nrows: []", "seen: 5 is no mapping of who, what"),
        ("sources: {seen: {measred: no}}\nrows: []", "seen: 'measred' is none of who, what"),
        ("date: 2026-13-45", "month must be in"),
        ("[" * 5000, "recursion"),
        ("\0", "unacceptable character"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(
    text: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the table stays as it is."""
    path, table = tmp_path / "facts.yml", tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(footprints, "FACTS", path)
    monkeypatch.setattr(footprints, "TABLE", table)
    assert footprints.main([]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"footprints: {path}: ")
    assert words in sentence
    assert not table.exists()
