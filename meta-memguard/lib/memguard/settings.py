# SPDX-License-Identifier: MIT
"""MEMGUARD_* variables -> a validated Policy; the only file that knows their names.

Runs in: the BitBake server; pure.
Does not cover: defaults and documentation of the variables, which stand in memguard.bbclass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Callable

from memguard.model import Footprint, Mode, Policy, Reading
from memguard.units import MIB, format_bytes, parse_bytes, parse_share

OVERRIDE_PREFIX = "MEMGUARD_FOOTPRINT:pn-"
# A server that has parsed ten recipes takes some 60 MiB.
LEAST_LIMIT_BYTES = 64 * MIB
# MEMGUARD_HISTORY as the URL of a database begins so.
DATABASES = ("postgresql://", "postgres://", "postgresql+psycopg://")
# The records of a build of 5,000 tasks take some 600 KiB.
LEAST_HISTORY_BYTES = MIB

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
)


class SettingsError(ValueError):
    """A variable that cannot be used; its text names the variable and the value and shows a good example."""

    def __init__(self, variable: str, value: str, why: str, example: str, better: str | None = None) -> None:
        super().__init__(f'{variable} = "{value}": {why}. A good value is: {better or variable} = "{example}"')


def read(get: Callable[[str], str | None], names: Iterable[str] = ()) -> Policy:
    """The policy the variables say. `get` returns a variable's value or None; `names` lists the ones that exist.

    Raises SettingsError for the first variable that cannot be used.
    """
    reserve = (get("MEMGUARD_RESERVE") or "").strip()
    reserve_share = parse_share(reserve)
    if reserve_share is not None and reserve_share >= 1:
        raise SettingsError("MEMGUARD_RESERVE", reserve, "that leaves nothing to build with", "10%")
    for_all = (get("MEMGUARD_FOOTPRINT") or "").strip()
    if for_all:
        why = "a footprint is that of one recipe, MEMGUARD_FOOTPRINT:pn-NAME"
        raise SettingsError("MEMGUARD_FOOTPRINT", for_all, why, OVERRIDE_EXAMPLE, f"{OVERRIDE_PREFIX}llvm-native")
    directory = get("MEMGUARD_DIR") or ""
    history, fleet = _history((get("MEMGUARD_HISTORY") or "").strip(), directory)
    jobserver = (get("MEMGUARD_JOBSERVER") or "").strip()
    if jobserver not in ("", "auto", "off"):
        raise SettingsError("MEMGUARD_JOBSERVER", jobserver, "neither auto nor off", "auto")
    min_jobs, min_jobs_share = _min_jobs((get("MEMGUARD_MIN_JOBS") or "").strip())
    return Policy(
        mode=_mode((get("MEMGUARD_MODE") or "").strip()),
        limit_bytes=_limit((get("MEMGUARD_LIMIT") or "").strip()),
        reserve_bytes=None if reserve_share is not None else _size("MEMGUARD_RESERVE", reserve, "1G"),
        reserve_share=reserve_share,
        min_jobs=min_jobs,
        min_jobs_share=min_jobs_share,
        directory=directory,
        history=history,
        fleet=fleet,
        history_max_bytes=_history_max((get("MEMGUARD_HISTORY_MAX") or "").strip()),
        retries=_retries((get("MEMGUARD_RETRIES") or "").strip()),
        retry_tasks=_tasks("MEMGUARD_RETRY_TASKS", get("MEMGUARD_RETRY_TASKS") or "", Policy.retry_tasks),
        no_kill=_tasks("MEMGUARD_NO_KILL", get("MEMGUARD_NO_KILL") or "", Policy.no_kill),
        pressure_command=(get("MEMGUARD_PRESSURE_CMD") or "").strip(),
        metrics=_metrics((get("MEMGUARD_METRICS") or "").strip()),
        overrides={
            name[len(OVERRIDE_PREFIX) :]: _override(name, get(name) or "")
            for name in sorted(names)
            if name.startswith(OVERRIDE_PREFIX)
        },
    )


def check_against(reading: Reading, policy: Policy, get: Callable[[str], str | None]) -> None:
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
    """A URL without user, password and options; any other text as it is."""
    return re.sub(r"://.*@", "://", text).partition("?")[0] if "://" in text else text


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
        raise SettingsError("MEMGUARD_HISTORY_MAX", value, "too little for a build's records", "64M")
    return size


def _metrics(value: str) -> str:
    example = "/var/lib/prometheus/node-exporter/memguard.prom"
    if value and not value.startswith("/"):
        raise SettingsError("MEMGUARD_METRICS", value, "not an absolute path", example)
    if value and not value.endswith(".prom"):
        raise SettingsError("MEMGUARD_METRICS", value, "node_exporter reads files that end in .prom only", example)
    return value


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
    raise SettingsError("MEMGUARD_MIN_JOBS", value, "not a number of jobs from 1 on, nor a share up to 100%", "25%")


def _override(variable: str, value: str) -> dict[str, Footprint]:
    try:
        return parse_override(value)
    except ValueError as error:
        raise SettingsError(variable, value, str(error), OVERRIDE_EXAMPLE) from None


def _retries(value: str) -> int:
    if not value:
        return Policy.retries
    if not re.fullmatch(r"[0-9]", value):
        raise SettingsError("MEMGUARD_RETRIES", value, "not a number from 0 to 9", "2")
    return int(value)


def _tasks(variable: str, value: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The names and shell patterns in a list of tasks."""
    for name in value.split():
        if not re.fullmatch(r"(do_|[*?\[])[\w*?\[\]!-]*", name):
            why = f"{name!r} names no task, nor does any that it stands for begin with do_"
            raise SettingsError(variable, value.strip(), why, " ".join(default[:2]))
    return tuple(value.split()) or default


def names_task(patterns: Iterable[str], task: str) -> bool:
    """Whether one of the names or shell patterns of MEMGUARD_RETRY_TASKS or MEMGUARD_NO_KILL means `task`."""
    return any(fnmatchcase(task, pattern) for pattern in patterns)


def retries_of(task: str, get: Callable[[str], str | None]) -> int:
    """How often `task` of the recipe whose variables `get` returns may run again with fewer jobs; 0: never.

    Raises SettingsError for a variable that cannot be used, which here may be the recipe's own.
    """
    tasks = _tasks("MEMGUARD_RETRY_TASKS", get("MEMGUARD_RETRY_TASKS") or "", Policy.retry_tasks)
    if not names_task(tasks, task) or task.endswith("_setscene"):
        return 0
    return _retries((get("MEMGUARD_RETRIES") or "").strip())


def may_be_killed(task: str, get: Callable[[str], str | None]) -> bool:
    """Whether a compiler of `task` may be killed: the task runs again then, and nobody says that it must not be.

    Raises SettingsError for a variable that cannot be used, which here may be the recipe's own.
    """
    spared = _tasks("MEMGUARD_NO_KILL", get("MEMGUARD_NO_KILL") or "", Policy.no_kill)
    return may_act(get) and retries_of(task, get) > 0 and not names_task(spared, task)


def may_act(get: Callable[[str], str | None]) -> bool:
    """Whether memguard may do more to a task than watch it."""
    return (get("MEMGUARD_MODE") or "").strip() in ("", Mode.ENFORCE.value)


def is_off(get: Callable[[str], str | None]) -> bool:
    """Whether the configuration switches memguard off."""
    return (get("MEMGUARD_MODE") or "").strip() == Mode.OFF.value


def is_jobserver_off(get: Callable[[str], str | None]) -> bool:
    """Whether a recipe shall have no pool of jobs; `get` reads the recipe's variables. In doubt it has none."""
    return (get("MEMGUARD_JOBSERVER") or "auto").strip() != "auto"


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
