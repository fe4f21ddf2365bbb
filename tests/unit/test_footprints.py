# SPDX-License-Identifier: MIT
"""Where footprints come from, and which one wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from memguard.model import Footprint, Outcome, Record, Sample
from memguard.predict.footprints import Known, Predictor, read_table
from memguard.predict.kinds import KINDS, by_kind
from memguard.settings import parse_override
from memguard.units import GIB, MIB

HEADER = "recipe,task,base_mib,per_job_mib,serial_mib,source\n"
NO_CLASSES: frozenset[str] = frozenset()
TABLE = read_table()


def known(recipe: str, task: str, mark: int) -> Known:
    """A row that can be told by its mark."""
    return Known(recipe, task, Footprint(mark, 0, 0, "known"))


def mark(rows: list[Known], recipe: str, task: str = "do_compile") -> int:
    """The mark of the row that wins."""
    return Predictor(rows, {}).predict(recipe, task, NO_CLASSES).base_bytes


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with one good row."""
    path = tmp_path / "table.csv"
    path.write_text("# a comment\n\n" + HEADER + 'foo*,do_compile,64,100,200,"here, there"\n')
    return path


@pytest.mark.parametrize("row", TABLE, ids=[f"{row.recipe}-{row.task}" for row in TABLE])
def test_every_shipped_row_is_reachable(row: Known) -> None:
    """No row of the shipped table lies hidden behind an earlier one."""
    recipe, task = row.recipe.replace("*", "0xyz"), row.task.replace("*", "0xyz")
    assert Predictor(TABLE, {}).predict(recipe, task, NO_CLASSES) is row.footprint


def test_every_shipped_row_is_plausible() -> None:
    """Every row takes something, and no row is beyond any machine."""
    assert len(TABLE) > 100
    for row in TABLE:
        assert 0 < row.footprint.peak_bytes(1) < 16 * GIB
        assert row.footprint.serial_bytes <= 16 * GIB
        assert row.task.startswith("do_")


def test_first_match_wins() -> None:
    """Of several rows that match, exact or pattern, the first one counts."""
    assert mark([known("foo", "do_compile", 1), known("foo*", "do_compile", 2)], "foo") == 1
    assert mark([known("foo*", "do_compile", 2), known("foo", "do_compile", 1)], "foo") == 2
    assert mark([known("foo", "do_compile", 1), known("foo*", "do_compile", 2)], "foobar") == 2
    assert mark([known("f*", "do_*", 1), known("fo*", "do_*", 2)], "foo") == 1


def test_repeated_rows_hide_no_later_pattern() -> None:
    """Rows that are there twice do not push the rows behind them out of reach."""
    rows = [known("foo", "do_compile", 1)] * 4 + [known("bar*", "do_compile", 2)]
    assert mark(rows, "bar") == 2


def test_patterns_match_whole_names_and_their_case() -> None:
    """A pattern is about the whole name, and upper case is another name."""
    row = known("foo-*", "do_compile", 1)
    assert mark([row], "foo-x") == 1
    for recipe, task in (("xfoo-x", "do_compile"), ("FOO-x", "do_compile"), ("foo-x", "do_compile_ptest_base")):
        assert mark([row], recipe, task) != 1


def test_override_beats_table_beats_kind() -> None:
    """The user's word stands first, then the table, then the kind."""
    own: Mapping[str, Mapping[str, Footprint]] = {"foo": {"do_compile": Footprint(9, 0, 0, "MEMGUARD_FOOTPRINT")}}
    predictor = Predictor([known("foo", "do_compile", 1), known("foo", "do_install", 2)], own)
    assert predictor.predict("foo", "do_compile", NO_CLASSES).base_bytes == 9
    assert predictor.predict("foo", "do_install", NO_CLASSES).base_bytes == 2
    assert predictor.predict("foo", "do_fetch", NO_CLASSES).origin == "a light task"


@pytest.mark.parametrize(
    ("task", "classes", "name"),
    [
        ("do_compile", "cargo base", "a Rust build"),
        ("do_compile", "cmake cargo", "a Rust build"),
        ("do_compile", "go-mod", "a Go build"),
        ("do_compile", "kernel", "a kernel"),
        ("do_compile_kernelmodules", "kernel", "a kernel"),
        ("do_compile", "module", "kernel modules"),
        ("do_compile", "cmake", "a C++ build (cmake, qmake)"),
        ("do_compile", "meson", "a meson build"),
        ("do_compile", "autotools", "an autotools build"),
        ("do_compile", "", "a build"),
        ("do_rootfs", "image", "an image"),
        ("do_image_ext4", "image", "an image"),
        ("do_package", "", "packaging"),
        ("do_package_write_rpm", "", "packaging"),
        ("do_packagedata", "", "a light task"),
        ("do_package_qa", "", "a light task"),
        ("do_create_image_sbom_spdx", "", "SPDX"),
        ("do_sbom_cve_check_recipe", "", "SPDX"),
        ("do_configure", "cmake", "a configure step"),
        ("do_install", "", "a light task"),
        ("", "", "a light task"),
    ],
)
def test_kinds(task: str, classes: str, name: str) -> None:
    """Unknown recipes are judged by task and inherited classes."""
    assert by_kind(task, frozenset(classes.split())).origin == name


def test_last_kind_takes_every_task() -> None:
    """There is a footprint for whatever comes."""
    assert KINDS[-1].task == "*"
    assert not KINDS[-1].classes


def test_table_is_read_with_comments_and_quotes(table: Path) -> None:
    """Comments and empty lines are passed over, sources may hold commas."""
    assert read_table(table) == [Known("foo*", "do_compile", Footprint(64 * MIB, 100 * MIB, 200 * MIB, "known"))]


@pytest.mark.parametrize(
    "row",
    [
        "bar,do_compile,64,100",
        "bar,do_compile,64,much,200,here",
        "bar,do_compile,64,1.5,200,here",
        "bar,do_compile,64,-100,200,here",
        "bar,do_compile,,100,200,here",
        "bar",
        ",do_compile,64,100,200,here",
        "bar,,64,100,200,here",
    ],
)
def test_wrong_row_names_file_and_line(table: Path, row: str) -> None:
    """Whoever wrote a wrong row is told where it is."""
    with open(table, "a") as file:
        file.write(f"\n{row}\n")
    with pytest.raises(ValueError, match=r"table\.csv:6: not a footprint; a good row is"):
        read_table(table)


def test_wrong_header_names_file_and_line(tmp_path: Path) -> None:
    """A table with other columns is refused at its first row."""
    path = tmp_path / "table.csv"
    path.write_text("pn,task,base_mib,per_job_mib,serial_mib\nfoo,do_compile,1,1,1\n")
    with pytest.raises(ValueError, match=r"table\.csv:2"):
        read_table(path)


def test_missing_table_is_an_oserror(tmp_path: Path) -> None:
    """A table that is not there says so."""
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


def test_override_fills_in_what_is_not_said() -> None:
    """Only what differs needs to be said."""
    assert parse_override("") == {}
    assert parse_override(" do_compile:serial=3G ") == {
        "do_compile": Footprint(64 * MIB, 0, 3 * GIB, "MEMGUARD_FOOTPRINT")
    }
    assert parse_override("do_compile:per_job=1G,most=4G") == {
        "do_compile": Footprint(64 * MIB, GIB, 0, "MEMGUARD_FOOTPRINT", 4 * GIB)
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("do_compile", "'do_compile' is not do_TASK:base=SIZE"),
        ("do_a:base=1G do_compile:", "'do_compile:' is not"),
        ("do_compile:base", "'do_compile:base' is not"),
        ("do_compile:peak=1G", "'do_compile:peak=1G' is not"),
        ("do_compile:base=1G,", "'do_compile:base=1G,' is not"),
        ("do_compile:base=", "not a size: ''"),
        ("do_compile:base=-1G", "not a size: '-1G'"),
        ("do_compile: base=1G", "'do_compile:' is not"),
        ("compile:base=1G", "'compile:base=1G' is not"),
        (":base=1G", "':base=1G' is not"),
        ("mc:arm:do_compile:base=1G", "is not do_TASK"),
    ],
)
def test_wrong_override_says_which_word(text: str, wrong: str) -> None:
    """An override that cannot be read names the word."""
    with pytest.raises(ValueError, match=wrong):
        parse_override(text)


def test_what_was_seen_moves_the_prior_and_not_the_users_word() -> None:
    """Samples count for the task they are of, in place of the table or the kind; the user's own figures stand."""
    record = Record("b", "zlib", "1.3", "do_compile", "m", 4, 900 * MIB, 200 * MIB, 10.0, 30.0, Outcome.OK)
    seen = {("zlib", "do_compile"): [Sample(record, 0)]}
    own = {"own": {"do_compile": Footprint(1, 2, 3, "MEMGUARD_FOOTPRINT")}}
    predictor = Predictor([], own, lambda recipe, task: seen.get((recipe, task), []))
    learned = predictor.predict("zlib", "do_compile", frozenset(), "1.3")
    assert learned.origin == "history"
    assert 900 * MIB < learned.peak_bytes(4) < 1400 * MIB
    assert predictor.predict("zlib", "do_install", frozenset()) == by_kind("do_install", frozenset())
    seen["own", "do_compile"] = seen["zlib", "do_compile"]
    assert predictor.predict("own", "do_compile", frozenset()) == own["own"]["do_compile"]


def test_what_others_of_a_kind_took_corrects_the_guess() -> None:
    """Of a recipe that nobody has built; other kinds, known recipes and the user's word stay as they are."""
    autotools, known = frozenset({"autotools"}), Footprint(5 * MIB, 0, 0, "known")
    own = {"mine": {"do_compile": Footprint(7 * MIB, 0, 0, "MEMGUARD_FOOTPRINT")}}
    predictor = Predictor([Known("zip", "do_compile", known)], own)
    guess = predictor.predict("new", "do_compile", autotools)
    assert predictor.take("light-0", "do_compile", autotools, 1, 40 * MIB) == guess.origin
    for number in range(1, 9):
        predictor.take(f"light-{number}", "do_compile", autotools, 1, 40 * MIB)
    learned = predictor.predict("new", "do_compile", autotools)
    assert learned.is_guess
    assert 40 * MIB < learned.peak_bytes(1) < guess.peak_bytes(1) / 2
    assert predictor.predict("new", "do_compile", frozenset({"cmake"})) == by_kind("do_compile", frozenset({"cmake"}))
    assert predictor.predict("zip", "do_compile", autotools) == known
    assert predictor.predict("mine", "do_compile", autotools) == own["mine"]["do_compile"]


def test_what_still_runs_teaches_only_that_more_is_to_be_expected() -> None:
    """One that has taken more than its kind is thought to raises that at once; one that is young says nothing."""
    predictor, meson = Predictor([], {}), frozenset({"meson"})
    guess = predictor.predict("new", "do_compile", meson)
    assert predictor.take("young", "do_compile", meson, 1, 30 * MIB, has_ended=False) == ""
    assert predictor.predict("new", "do_compile", meson) == guess
    assert predictor.take("large", "do_compile", meson, 1, 900 * MIB, has_ended=False) == guess.origin
    assert predictor.predict("new", "do_compile", meson).peak_bytes(1) > guess.peak_bytes(1)


def test_what_a_fleet_took_of_a_kind_corrects_the_guess() -> None:
    """Recipes of other images count by the name of their kind; a name that no kind has says nothing."""
    cmake = frozenset({"cmake"})
    predictor = Predictor([], {})
    guess = predictor.predict("new", "do_compile", cmake)
    for number in range(6):
        predictor.take_remembered(f"far-{number}", "do_compile", guess.origin, 4, 6 * GIB)
        predictor.take_remembered(f"odd-{number}", "do_compile", "a kind to come", 4, 60 * GIB)
        predictor.take_remembered(f"none-{number}", "do_rootfs", guess.origin, 4, 60 * GIB)
    learned = predictor.predict("new", "do_compile", cmake)
    assert learned.origin == guess.origin
    assert 2 < learned.peak_bytes(4) / guess.peak_bytes(4) < 6
