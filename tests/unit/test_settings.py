# SPDX-License-Identifier: MIT
"""MEMGUARD_* variables become a policy, or an error that helps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard import settings
from memguard.model import Footprint, Mode, Policy, Reading, TaskPolicy
from memguard.settings import OVERRIDE_EXAMPLE, parse_override
from memguard.units import GIB, MIB

BBCLASS = Path(__file__).parents[2] / "meta-memguard" / "classes-global" / "memguard.bbclass"


def read(**values: str) -> Policy:
    """The policy of these variables, named without MEMGUARD_."""
    named = {f"MEMGUARD_{name}": value for name, value in values.items()}
    return settings.read(named.get)


def reading(bound_bytes: int) -> Reading:
    """A container with a limit of `bound_bytes`."""
    return Reading(bound_bytes, "memory.max", 0, 0, bound_bytes, None, 64 * GIB, 4)


def test_nothing_set_is_the_default_policy() -> None:
    """Without any variable the build is guarded, under the container's limit."""
    assert settings.read(lambda name: None) == Policy()
    assert settings.read(lambda name: "  " if name != "MEMGUARD_DIR" else "") == Policy()


def test_every_variable_is_read() -> None:
    """Each variable lands in its field."""
    policy = read(
        MODE="observe",
        LIMIT="12G",
        RESERVE="1G",
        MIN_JOBS="2",
        DIR="/b/m",
        HISTORY="/h.db",
        HISTORY_MAX="1G",
        METRICS="/m.prom",
        CGROUPS="auto",
    )
    assert policy == Policy(
        mode=Mode.OBSERVE,
        limit_bytes=12 * GIB,
        reserve_bytes=GIB,
        min_jobs=2,
        directory="/b/m",
        history="/h.db",
        history_max_bytes=GIB,
        metrics="/m.prom",
        has_cgroup=True,
    )


def test_a_database_is_shared_and_a_file_beside_it_is_used() -> None:
    """A URL names the fleet's database; the build itself keeps a file below MEMGUARD_DIR."""
    policy = read(DIR="/b/m", HISTORY="postgresql://u:secret@db.example/memguard?sslmode=require")
    assert policy.history == "/b/m/history.db"
    assert policy.fleet == "postgresql://u:secret@db.example/memguard?sslmode=require"
    assert "secret" not in repr(policy)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"HISTORY": "mysql://u:secret@h/db", "DIR": "/b"}, "neither an absolute path nor postgresql://"),
        ({"HISTORY": "postgresql://u:secret@h/db"}, "a database needs a MEMGUARD_DIR"),
        ({"HISTORY": "postgresql://u:secret@h/db?password=secret", "DIR": "b"}, "a database needs a MEMGUARD_DIR"),
    ],
)
def test_no_error_tells_a_password(values: dict[str, str], why: str) -> None:
    """A URL that cannot be used is named without user, password and options."""
    with pytest.raises(settings.SettingsError) as caught:
        read(**values)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "h/db" in str(caught.value)


def test_shares_are_read() -> None:
    """Reserve and fewest jobs may be shares."""
    policy = read(RESERVE="10%", MIN_JOBS="50%")
    assert (policy.reserve_share, policy.reserve_bytes) == (0.1, None)
    assert (policy.min_jobs_share, policy.min_jobs) == (0.5, None)


def test_footprints_of_single_recipes_are_read() -> None:
    """A :pn- line becomes an override of that recipe, and names without :pn- are passed over."""
    values = {
        "MEMGUARD_FOOTPRINT:pn-foo": "do_compile:base=200M,per_job=2600M,serial=8G do_package:serial=3G",
        "MEMGUARD_FOOTPRINT:pn-bar": "",
        "MEMGUARD_MODE": "off",
    }
    assert settings.read(values.get, values).overrides == {
        "foo": {
            "do_compile": Footprint(200 * MIB, 2600 * MIB, 8 * GIB, "MEMGUARD_FOOTPRINT"),
            "do_package": Footprint(64 * MIB, 0, 3 * GIB, "MEMGUARD_FOOTPRINT"),
        },
        "bar": {},
    }


BAD = [
    ("MODE", "aggressive", "observe"),
    ("MODE", "Off", "observe"),
    ("LIMIT", "12 potatoes", "12G"),
    ("LIMIT", "-1G", "12G"),
    ("LIMIT", "0", "12G"),
    ("LIMIT", "80%", "12G"),
    ("LIMIT", "9" * 400, "12G"),
    ("RESERVE", "lots", "1G"),
    ("RESERVE", "-5%", "1G"),
    ("RESERVE", "100%", "10%"),
    ("RESERVE", "9" * 400 + "%", "10%"),
    ("HISTORY", "history.db", "/cache/memguard/history.db"),
    ("HISTORY", "${SSTATE_DIR}/history.db", "/cache/memguard/history.db"),
    ("HISTORY_MAX", "lots", "64M"),
    ("HISTORY_MAX", "100K", "64M"),
    ("METRICS", "memguard.prom", "/var/lib/prometheus/node-exporter/memguard.prom"),
    ("METRICS", "/var/lib/memguard.txt", "/var/lib/prometheus/node-exporter/memguard.prom"),
    ("MIN_JOBS", "0", "25%"),
    ("MIN_JOBS", "0%", "25%"),
    ("MIN_JOBS", "101%", "25%"),
    ("MIN_JOBS", "-1", "25%"),
    ("MIN_JOBS", "two", "25%"),
    ("MIN_JOBS", "1.5", "25%"),
    ("MIN_JOBS", "\u00b2", "25%"),
    ("MIN_JOBS", "9" * 5000, "25%"),
    ("RETRIES", "-1", "2"),
    ("RETRIES", "10", "2"),
    ("RETRIES", "two", "2"),
    ("RETRY_TASKS", "compile", "do_compile do_compile_kernelmodules"),
    ("RETRY_TASKS", "do_compile,do_install", "do_compile do_compile_kernelmodules"),
    ("NO_KILL", "do_fetch rootfs", "do_fetch do_rootfs"),
    ("CGROUPS", "on", "auto"),
]


@pytest.mark.parametrize(("name", "value", "example"), BAD)
def test_error_names_variable_value_and_a_good_example(name: str, value: str, example: str) -> None:
    """Whoever reads the error knows what to change, and to what."""
    with pytest.raises(settings.SettingsError) as caught:
        read(**{name: value})
    text = str(caught.value)
    assert f'MEMGUARD_{name} = "{value}"' in text
    assert f'A good value is: MEMGUARD_{name} = "{example}"' in text


@pytest.mark.parametrize(("name", "value", "example"), BAD)
def test_the_example_is_good(name: str, value: str, example: str) -> None:
    """What an error proposes is accepted."""
    read(**{name: example})


@pytest.mark.parametrize(
    "value", ["do_compile", "do_compile:", "do_compile:base=potato", "compile:base=1G", ":base=1G"]
)
def test_error_in_a_footprint_names_its_line(value: str) -> None:
    """A wrong footprint names the :pn- line it stands in, and shows a good one."""
    name = "MEMGUARD_FOOTPRINT:pn-foo"
    with pytest.raises(settings.SettingsError) as caught:
        settings.read({name: value}.get, [name])
    assert f'{name} = "{value}"' in str(caught.value)
    assert f'{name} = "{OVERRIDE_EXAMPLE}"' in str(caught.value)
    assert parse_override(OVERRIDE_EXAMPLE)


def test_reserve_must_leave_something_of_the_limit() -> None:
    """A reserve as large as the limit that was found is an error that tells the limit."""
    values = {"MEMGUARD_RESERVE": "2G"}
    policy = settings.read(values.get)
    settings.check_against(reading(2 * GIB + 1), policy, values.get)
    with pytest.raises(settings.SettingsError, match=r'MEMGUARD_RESERVE = "2G": the limit is 2\.0 GiB \(memory\.max\)'):
        settings.check_against(reading(2 * GIB), policy, values.get)


@given(
    st.sampled_from(["MODE", "LIMIT", "RESERVE", "MIN_JOBS", "RETRIES", "RETRY_TASKS", "NO_KILL", "PRESSURE_CMD"]),
    st.text(),
)
def test_any_text_is_a_policy_or_a_settings_error(name: str, value: str) -> None:
    """No value makes anything else than a SettingsError."""
    try:
        policy = read(**{name: value})
    except settings.SettingsError:
        return
    assert policy.fewest_jobs(8, 8.0) >= 1
    assert policy.limit_bytes is None or policy.limit_bytes > 0


@given(st.lists(st.sampled_from(["do_compile", ":", "=", ",", "base", "per_job=", "1G", " ", "x"])).map("".join))
def test_any_footprint_is_taken_or_refused(value: str) -> None:
    """No footprint text makes anything else than a SettingsError."""
    name = "MEMGUARD_FOOTPRINT:pn-foo"
    try:
        policy = settings.read({name: value}.get, [name])
    except settings.SettingsError:
        return
    assert all(task.startswith("do_") for task in policy.overrides["foo"])


@pytest.mark.parametrize(("value", "is_off"), [("off", True), (" off ", True), ("observe", False), ("", False)])
def test_off_is_off(value: str, is_off: bool) -> None:
    """Only the word off switches memguard off."""
    assert settings.is_off({"MEMGUARD_MODE": value}.get) is is_off


def read_task(task: str, is_scheduled: bool = True, **values: str) -> TaskPolicy:
    """What these variables, named without MEMGUARD_, say of a task."""
    named = {"MEMGUARD_DIR": "/b/m", **{f"MEMGUARD_{name}": value for name, value in values.items()}}
    policy = settings.read_task(named.get, task, is_scheduled)
    assert policy is not None
    return policy


@pytest.mark.parametrize("values", [{"MEMGUARD_DIR": "/b/m", "MEMGUARD_MODE": " off "}, {"MEMGUARD_MODE": "enforce"}])
def test_a_task_is_left_alone_where_memguard_is_off(values: dict[str, str]) -> None:
    """Switched off, or without a directory to find grants in, memguard has no part in a task."""
    assert settings.read_task(values.get, "do_compile") is None


def test_a_task_reads_all_it_needs_at_once() -> None:
    """By default a compile runs again twice, may lose a compiler, and takes its jobs from a pool."""
    assert read_task("do_compile") == TaskPolicy("/b/m", acts=True, retries=2, may_kill=True, uses_pool=True)


@pytest.mark.parametrize(
    ("task", "values", "retries"),
    [
        ("do_compile", {}, 2),
        ("do_compile_kernelmodules", {}, 2),
        ("do_install", {"RETRIES": "9"}, 9),
        ("do_compile", {"RETRIES": "0"}, 0),
        ("do_configure", {}, 0),
        ("do_install_ptest_base", {}, 0),
        ("do_install_ptest_base", {"RETRY_TASKS": "do_compile do_install*"}, 2),
        ("do_install_setscene", {"RETRY_TASKS": "*"}, 0),
        ("do_rootfs", {"RETRY_TASKS": "*"}, 2),
    ],
)
def test_only_listed_tasks_may_run_again(task: str, values: dict[str, str], retries: int) -> None:
    """A task may run again when a name or a pattern of the list means it; a setscene task never may."""
    assert read_task(task, **values).retries == retries


@pytest.mark.parametrize(
    ("task", "is_meant"),
    [
        ("do_rootfs", True),
        ("do_image_ext4", True),
        ("do_package_write_rpm", True),
        ("do_fetch", True),
        ("do_package", False),
        ("do_compile", False),
    ],
)
def test_tasks_without_kills_are_meant_by_patterns(task: str, is_meant: bool) -> None:
    """The default list names images, packages and fetches, and no compile; all others may lose a process."""
    assert read_task(task, RETRY_TASKS="*").may_kill is not is_meant


def test_only_what_runs_again_may_be_killed() -> None:
    """A task that does not run again would fail for a kill, and one that is spared by name loses nothing either."""
    assert not read_task("do_compile", RETRIES="0").may_kill
    assert not read_task("do_configure").may_kill
    assert not read_task("do_compile", NO_KILL="do_comp*").may_kill


@pytest.mark.parametrize(("value", "may"), [("enforce", True), ("", True), ("observe", False)])
def test_only_a_memguard_that_enforces_acts(value: str, may: bool) -> None:
    """In observe mode, or under a scheduler that is not memguard's, nothing is done to a task."""
    policy = read_task("do_compile", MODE=value)
    assert (policy.acts, policy.may_kill, policy.uses_pool) == (may, may, may)
    assert read_task("do_compile", is_scheduled=False, MODE=value) == TaskPolicy("/b/m")


@pytest.mark.parametrize(("value", "uses"), [("auto", True), ("", True), (" ", True), ("off", False), ("on", False)])
def test_a_recipe_may_have_no_pool(value: str, uses: bool) -> None:
    """What a recipe says of the jobserver counts; in doubt its tasks have no pool."""
    assert read_task("do_compile", JOBSERVER=value).uses_pool is uses


@pytest.mark.parametrize(("name", "value", "example"), [bad for bad in BAD if "RETR" in bad[0] or "KILL" in bad[0]])
def test_a_task_with_a_bad_line_of_its_recipe_is_watched_only(name: str, value: str, example: str) -> None:
    """A recipe's own value that cannot be used costs no task its life: it is named, and nothing is done to the task."""
    policy = read_task("do_compile", **{name: value})
    assert replace(policy, fault="") == TaskPolicy("/b/m")
    assert f'MEMGUARD_{name} = "{value}"' in policy.fault
    assert f'A good value is: MEMGUARD_{name} = "{example}"' in policy.fault


@given(st.sampled_from(["MODE", "RETRIES", "RETRY_TASKS", "NO_KILL", "JOBSERVER"]), st.text())
def test_no_text_of_a_recipe_ends_its_task(name: str, value: str) -> None:
    """Whatever a recipe says, reading it raises nothing, and a task that may be killed runs again."""
    policy = settings.read_task({"MEMGUARD_DIR": "/b/m", f"MEMGUARD_{name}": value}.get, "do_compile")
    assert policy is None or policy.retries > 0 or not policy.may_kill


def test_defaults_of_the_class_are_those_of_tasks() -> None:
    """A recipe that sets nothing has the lists and the number that memguard.bbclass documents."""
    text = BBCLASS.read_text(encoding="utf-8")
    defaults = dict(re.findall(r'^MEMGUARD_([A-Z_]+) \?= "(.*)"$', text, re.MULTILINE))
    assert defaults["RETRIES"] == str(settings.RETRIES)
    assert tuple(defaults["RETRY_TASKS"].split()) == settings.RETRY_TASKS
    assert tuple(defaults["NO_KILL"].split()) == settings.NO_KILL
    assert defaults["JOBSERVER"] == "auto"
    assert (defaults["CGROUPS"], Policy().has_cgroup) == ("off", False)


def test_override_names_are_found() -> None:
    """Of all names, those of recipes' footprints are told apart."""
    names = ["A", "MEMGUARD_FOOTPRINT", "MEMGUARD_FOOTPRINT:pn-foo"]
    assert settings.override_names(names) == ["MEMGUARD_FOOTPRINT:pn-foo"]


@pytest.mark.parametrize("value", ["12", "0", "63M"])
def test_a_limit_below_bitbake_itself_is_refused(value: str) -> None:
    """A limit without its unit is a slip, and no build fits it."""
    with pytest.raises(settings.SettingsError, match=f'MEMGUARD_LIMIT = "{value}".*MEMGUARD_LIMIT = "12G"'):
        settings.read({"MEMGUARD_LIMIT": value}.get)


def test_a_footprint_for_all_recipes_is_refused() -> None:
    """Without the name of a recipe the variable would be ignored, so it is refused, with the line that works."""
    with pytest.raises(settings.SettingsError, match="A good value is: MEMGUARD_FOOTPRINT:pn-llvm-native"):
        settings.read({"MEMGUARD_FOOTPRINT": "do_compile:base=1G"}.get)
