# SPDX-License-Identifier: MIT
"""MEMGUARD_* variables -> the Policy of a build, and the TaskPolicy of one task; the only file that knows their names.

Runs in: the BitBake server (read), once per parsed configuration and build; task children (read_task), once per task;
the `memguard` command; pure.
Covers: what is wrong with a value, with a good one beside it.
Does not cover: documentation of the variables, which stands in memguard.bbclass with the same defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Callable

from memguard.model import Footprint, Mode, Policy, Reading, TaskPolicy
from memguard.units import MIB, format_bytes, parse_bytes, parse_share

OVERRIDE_PREFIX = "MEMGUARD_FOOTPRINT:pn-"
# A server that has parsed ten recipes takes some 60 MiB.
LEAST_LIMIT_BYTES = 64 * MIB
# MEMGUARD_HISTORY as the URL of a database begins so.
DATABASES = ("postgresql://", "postgres://", "postgresql+psycopg://")
# The records of a build of 5,000 tasks take some 600 KiB.
LEAST_HISTORY_BYTES = MIB
# Defaults of what only tasks read.
RETRIES = 2
RETRY_TASKS = ("do_compile", "do_compile_kernelmodules", "do_compile_ptest_base", "do_install")
NO_KILL = ("do_fetch", "do_rootfs", "do_image*", "do_package_write_*", "*_setscene")

# Changing one of these needs no new parse of the recipes: none of them is read by a recipe.
VARIABLES = (
    "MEMGUARD_MODE",
    "MEMGUARD_LIMIT",
    "MEMGUARD_RESERVE",
    "MEMGUARD_MIN_JOBS",
    "MEMGUARD_DIR",
    "MEMGUARD_HISTORY",
    "MEMGUARD_HISTORY_MAX",
    "MEMGUARD_METRICS",
    "MEMGUARD_FOOTPRINT",
    "MEMGUARD_RETRIES",
    "MEMGUARD_RETRY_TASKS",
    "MEMGUARD_NO_KILL",
    "MEMGUARD_PRESSURE_CMD",
    "MEMGUARD_JOBSERVER",
    "MEMGUARD_PARKING",
    "MEMGUARD_CHAIN",
    "MEMGUARD_NEIGHBOURS",
    "MEMGUARD_CGROUPS",
)


class SettingsError(ValueError):
    """A variable that cannot be used; its text names the variable and the value and shows a good example."""

    def __init__(self, variable: str, value: str, why: str, example: str, better: str | None = None) -> None:
        super().__init__(f'{variable} = "{value}": {why}. A good value is: {better or variable} = "{example}"')


Getter = Callable[[str], "str | None"]


def read(get: Getter, names: Iterable[str] = ()) -> Policy:
    """The policy the variables say. `get` returns a variable's value or None; `names` lists the ones that exist.

    What only tasks read is validated, too, and not carried: a recipe may say otherwise (read_task).

    Raises SettingsError for the first variable that cannot be used.
    """
    reserve = _value(get, "MEMGUARD_RESERVE")
    reserve_share = parse_share(reserve)
    if reserve_share is not None and reserve_share >= 1:
        raise SettingsError("MEMGUARD_RESERVE", reserve, "that leaves nothing to build with", "10%")
    for_all = _value(get, "MEMGUARD_FOOTPRINT")
    if for_all:
        why = "footprints are set for single recipes, as MEMGUARD_FOOTPRINT:pn-NAME"
        raise SettingsError("MEMGUARD_FOOTPRINT", for_all, why, OVERRIDE_EXAMPLE, f"{OVERRIDE_PREFIX}llvm-native")
    directory = get("MEMGUARD_DIR") or ""
    history, fleet = _history(_value(get, "MEMGUARD_HISTORY"), directory)
    _is_auto(get, "MEMGUARD_JOBSERVER")
    min_jobs, min_jobs_share = _min_jobs(_value(get, "MEMGUARD_MIN_JOBS"))
    # A slip in what only tasks read ends the build, too, before it begins.
    _retries(get)
    _tasks(get, "MEMGUARD_RETRY_TASKS", RETRY_TASKS)
    _tasks(get, "MEMGUARD_NO_KILL", NO_KILL)
    return Policy(
        mode=_mode(_value(get, "MEMGUARD_MODE")),
        limit_bytes=_limit(_value(get, "MEMGUARD_LIMIT")),
        reserve_bytes=None if reserve_share is not None else _size("MEMGUARD_RESERVE", reserve, "1G"),
        reserve_share=reserve_share,
        min_jobs=min_jobs,
        min_jobs_share=min_jobs_share,
        directory=directory,
        history=history,
        fleet=fleet,
        history_max_bytes=_history_max(_value(get, "MEMGUARD_HISTORY_MAX")),
        pressure_command=_value(get, "MEMGUARD_PRESSURE_CMD"),
        parks=_is_auto(get, "MEMGUARD_PARKING"),
        gives_way=_is_auto(get, "MEMGUARD_CHAIN"),
        has_cgroup=_is_auto(get, "MEMGUARD_CGROUPS", "off"),
        neighbours=_neighbours(_value(get, "MEMGUARD_NEIGHBOURS")),
        metrics=_metrics(_value(get, "MEMGUARD_METRICS")),
        overrides={
            name[len(OVERRIDE_PREFIX) :]: _override(name, get(name) or "")
            for name in sorted(names)
            if name.startswith(OVERRIDE_PREFIX)
        },
    )


def read_task(get: Getter, task: str, is_scheduled: bool = True) -> TaskPolicy | None:
    """What the variables say of `task`, where `get` reads those of its recipe; None where memguard has no part in it.

    is_scheduled: whether a scheduler of memguard's starts the tasks; without it they are watched only.

    Never raises: the server has validated the configuration, and a recipe's own line that cannot be used is a `fault`.
    """
    directory, mode = get("MEMGUARD_DIR") or "", _value(get, "MEMGUARD_MODE")
    if not directory or mode == Mode.OFF.value:
        return None
    if not is_scheduled or mode not in ("", Mode.ENFORCE.value):
        return TaskPolicy(directory)
    try:
        again = _tasks(get, "MEMGUARD_RETRY_TASKS", RETRY_TASKS)
        retries = _retries(get) if _is_among(task, again) and not task.endswith("_setscene") else 0
        is_spared = _is_among(task, _tasks(get, "MEMGUARD_NO_KILL", NO_KILL))
    except SettingsError as error:
        return TaskPolicy(directory, fault=str(error))
    return TaskPolicy(
        directory=directory,
        acts=True,
        retries=retries,
        may_kill=retries > 0 and not is_spared,
        uses_pool=_value(get, "MEMGUARD_JOBSERVER") in ("", "auto"),
    )


def is_off(get: Getter) -> bool:
    """Whether the configuration switches memguard off."""
    return _value(get, "MEMGUARD_MODE") == Mode.OFF.value


def check_against(reading: Reading, policy: Policy, get: Getter) -> None:
    """Raises SettingsError where the reserve leaves nothing of the limit that `reading` found."""
    if policy.reserve_bytes is not None and policy.reserve_bytes >= reading.bound_bytes:
        limit = f"the limit is {format_bytes(reading.bound_bytes)} ({reading.limit_source})"
        raise SettingsError(
            "MEMGUARD_RESERVE", get("MEMGUARD_RESERVE") or "", f"{limit}, which leaves nothing to build with", "10%"
        )


def _mode(value: str) -> Mode:
    try:
        return Mode(value) if value else Mode.ENFORCE
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise SettingsError("MEMGUARD_MODE", value, f"not a mode ({known})", Mode.OBSERVE.value) from None


def _limit(value: str) -> int | None:
    size = _size("MEMGUARD_LIMIT", value, "12G")
    if size is not None and size < LEAST_LIMIT_BYTES:
        raise SettingsError("MEMGUARD_LIMIT", value, "less than BitBake itself takes", "12G")
    return size


def is_database(history: str) -> bool:
    """Whether a MEMGUARD_HISTORY means a database rather than a file."""
    return history.strip().startswith(DATABASES)


def without_secrets(text: str) -> str:
    """A URL without user, password and options; nothing but its scheme where these cannot be told from the rest.

    Of any other text what may be a password is left out, as of a URL with a slip in it.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return re.sub(r"^[^/].*:.*@|(?<=password=).*", "...", text, flags=re.DOTALL)
    place = rest.rpartition("@")[2]
    is_clear = "?" not in rest[: len(rest) - len(place)]
    return f"{scheme}://{place.partition('?')[0] if is_clear else '...'}"


def _history(value: str, directory: str) -> tuple[str, str]:
    """The file that the build itself reads and writes, and the database that it shares with others, "" for none."""
    example = "/cache/memguard/history.db"
    if not is_database(value):
        if value and not value.startswith("/"):
            why = "neither an absolute path nor postgresql://..." if "://" in value else "not an absolute path"
            raise SettingsError("MEMGUARD_HISTORY", without_secrets(value), why, example)
        return value, ""
    if not directory.startswith("/"):
        why = "a database needs a MEMGUARD_DIR, where the build keeps its own copy"
        raise SettingsError("MEMGUARD_HISTORY", without_secrets(value), why, example)
    return f"{directory}/history.db", value


def _history_max(value: str) -> int:
    size = _size("MEMGUARD_HISTORY_MAX", value, "64M")
    if size is None:
        return Policy.history_max_bytes
    if size < LEAST_HISTORY_BYTES:
        raise SettingsError("MEMGUARD_HISTORY_MAX", value, "too small for a build's records", "64M")
    return size


def _metrics(value: str) -> str:
    example = "/var/lib/prometheus/node-exporter/memguard.prom"
    if value and not value.startswith("/"):
        raise SettingsError("MEMGUARD_METRICS", value, "not an absolute path", example)
    if value and not value.endswith(".prom"):
        raise SettingsError("MEMGUARD_METRICS", value, "node_exporter reads only files that end in .prom", example)
    return value


def _neighbours(value: str) -> str:
    if value and value not in ("auto", "off") and not value.startswith("/"):
        raise SettingsError("MEMGUARD_NEIGHBOURS", value, "neither auto, off nor an absolute path", "auto")
    return value or Policy.neighbours


def _size(variable: str, value: str, example: str) -> int | None:
    if not value:
        return None
    try:
        return parse_bytes(value)
    except ValueError:
        raise SettingsError(variable, value, "not a size in bytes, K, M, G or T", example) from None


def _min_jobs(value: str) -> tuple[int | None, float]:
    """The fewest jobs as a number, and as a share of the wanted ones."""
    if not value:
        return None, Policy.min_jobs_share
    share = parse_share(value)
    if share is not None and 0 < share <= 1:
        return None, share
    if re.fullmatch(r"0*[1-9][0-9]{0,8}", value):
        return int(value), Policy.min_jobs_share
    raise SettingsError("MEMGUARD_MIN_JOBS", value, "neither a number of jobs from 1 up nor a share up to 100%", "25%")


def _is_auto(get: Getter, variable: str, default: str = "auto") -> bool:
    """Whether a switch is at auto and not at off."""
    value = _value(get, variable) or default
    if value not in ("auto", "off"):
        raise SettingsError(variable, value, "neither auto nor off", "auto")
    return value == "auto"


def _override(variable: str, value: str) -> dict[str, Footprint]:
    try:
        return parse_override(value)
    except ValueError as error:
        raise SettingsError(variable, value, str(error), OVERRIDE_EXAMPLE) from None


def _retries(get: Getter) -> int:
    value = _value(get, "MEMGUARD_RETRIES")
    if not value:
        return RETRIES
    if not re.fullmatch(r"[0-9]", value):
        raise SettingsError("MEMGUARD_RETRIES", value, "not a number from 0 to 9", "2")
    return int(value)


def _tasks(get: Getter, variable: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The names and shell patterns in a list of tasks."""
    value = _value(get, variable)
    for name in value.split():
        if not re.fullmatch(r"(do_|[*?\[])[\w*?\[\]!-]*", name):
            why = f"{name!r} is not the name or pattern of a task; these begin with do_"
            raise SettingsError(variable, value, why, " ".join(default[:2]))
    return tuple(value.split()) or default


def _is_among(task: str, patterns: Iterable[str]) -> bool:
    """Whether one of these names or shell patterns means the task."""
    return any(fnmatchcase(task, pattern) for pattern in patterns)


def _value(get: Getter, variable: str) -> str:
    return (get(variable) or "").strip()


def override_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that are settings for single recipes."""
    return [name for name in names if name.startswith((OVERRIDE_PREFIX, "MEMGUARD_JOBSERVER:pn-"))]


OVERRIDE_EXAMPLE = "do_compile:base=200M,per_job=2600M,serial=8G do_package:serial=3G"


def parse_override(text: str) -> dict[str, Footprint]:
    """Footprints by task out of a MEMGUARD_FOOTPRINT value, e.g. "do_compile:base=200M,per_job=2600M,serial=8G".

    most=SIZE, too, is what it never takes more than, however many jobs it has.

    Raises ValueError that says which word is wrong.
    """
    footprints = {}
    for word in text.split():
        task, colon, settings = word.partition(":")
        values = {"base": 64 * MIB, "per_job": 0, "serial": 0}
        for setting in settings.split(","):
            name, equals, size = setting.partition("=")
            if not colon or not task.startswith("do_") or not equals or name not in (*values, "most"):
                raise ValueError(f"{word!r} is not do_TASK:base=SIZE,per_job=SIZE,serial=SIZE,most=SIZE")
            values[name] = parse_bytes(size)
        footprints[task] = Footprint(
            values["base"], values["per_job"], values["serial"], "MEMGUARD_FOOTPRINT", values.get("most")
        )
    return footprints
