# SPDX-License-Identifier: MIT
"""The house rules, held by reading the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYER = ROOT / "meta-memguard"
MEMGUARD = LAYER / "lib" / "memguard"
CLI = ROOT / "lib" / "memguard_cli"
BBCLASS = (LAYER / "classes-global" / "memguard.bbclass").read_text(encoding="utf-8")

# Who may import whom within the layer. Values flow one way: sense -> predict -> decide -> act -> record.
EDGES = {
    "__init__": "",
    "units": "",
    "model": "",
    "knobs": "",
    "handover": "",
    "clients": "",
    "events": "model",
    "fleet": "",
    "digest": "",
    "history": "digest model mounts units",
    "decide": "model units",
    "durations": "model",
    "priority": "",
    "learn": "model units",
    "predict": "learn model units",
    "kernel_files": "",
    "procs": "lives",
    "jobserver": "",
    "jobsizes": "units",
    "lives": "digest jobsizes",
    "precedence": "",
    "pressure": "",
    "regulate": "jobsizes units",
    "signals": "procs",
    "reflex": "jobserver jobsizes lives model procs regulate signals units",
    "mounts": "",
    "cgroups": "kernel_files mounts",
    "sense": "cgroups kernel_files model mounts",
    "settings": "model predict units",
    "metrics": "",
    "notes": "model",
    "state": "",
    "readings": "events",
    "retries": "",
    "kills": "leftovers model regulate signals",
    "sentinel": (
        "history kills lives metrics model notes precedence pressure pressure_command procs readings reflex regulate "
        "retries sense signals state"
    ),
    "pressure_command": "",
    "failure_rules": "",
    "failures": "failure_rules",
    "leftovers": "",
    "turns": "model notes state",
    "retry": "failures units",
    "rerun": "failures leftovers notes procs retry sense settings state turns",
    "watch": "notes",
    "guard": "decide events handover model notes sense state units",
    "server": (
        "clients durations events fleet guard handover history jobserver knobs model notes sense settings state units "
        "watch"
    ),
    "scheduler": "durations guard knobs model predict priority server",
    "pooling": "clients jobserver knobs procs settings",
    "worker": "handover knobs model notes pooling procs rerun settings signals",
}
ADAPTERS = {"server", "scheduler", "pooling", "worker", "rerun"}
PURE = (
    "units",
    "model",
    "decide",
    "durations",
    "digest",
    "jobsizes",
    "knobs",
    "learn",
    "lives",
    "mounts",
    "priority",
    "regulate",
    "retries",
    "retry",
    "failure_rules",
    "failures",
)
TYPED = (
    *PURE,
    "predict",
    "settings",
    "kernel_files",
    "cgroups",
    "sense",
    "handover",
    "clients",
    "events",
    "fleet",
    "guard",
    "history",
    "metrics",
    "procs",
    "jobserver",
    "precedence",
    "pressure",
    "signals",
    "reflex",
    "state",
    "readings",
    "kills",
    "notes",
    "sentinel",
    "watch",
    "pressure_command",
    "leftovers",
    "turns",
)
MODULES = sorted(path.stem for path in MEMGUARD.glob("*.py"))

SOURCES = {".py", ".bbclass", ".conf", ".inc", ".bb", ".sh", ".csv", ".toml", ".yml", ".yaml"}


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, at any depth and for types only, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            names.update(f"memguard.{alias.name}" if module == "memguard" else module for alias in node.names)
    return names


def sources() -> Iterator[Path]:
    """Every file that a person wrote and that can hold a licence line."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        skipped = parts[0] == "build" or "fixtures" in parts or "__pycache__" in parts or "egg-info" in str(path)
        if hidden or skipped or not path.is_file():
            continue
        if path.suffix in SOURCES or path.read_bytes()[:2] == b"#!":
            yield path


def run(*arguments: str) -> None:
    """Run a tool of the house; its complaints are the failure."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_row() -> None:
    """Who adds a module says whom it may import."""
    assert set(MODULES) == set(EDGES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module: str) -> None:
    """A module imports of memguard what the table allows."""
    ours = {name.partition(".")[2] for name in imports(MEMGUARD / f"{module}.py") if name.split(".")[0] == "memguard"}
    assert ours <= set(EDGES[module].split())


def test_the_table_has_no_circle() -> None:
    """The allowed imports can be put in an order."""
    left = {module: set(allowed.split()) for module, allowed in EDGES.items()}
    while left:
        ready = [module for module, allowed in left.items() if not allowed & set(left)]
        assert ready, f"in a circle: {sorted(left)}"
        for module in ready:
            del left[module]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is there from 3.10 on")
@pytest.mark.parametrize("module", MODULES)
def test_the_layer_needs_the_standard_library_only(module: str) -> None:
    """Whatever runs in BitBake needs nothing beside Python, and bb in the adapters alone."""
    allowed = {*sys.stdlib_module_names, "memguard", *(["bb"] if module in ADAPTERS else [])}
    assert {name.split(".")[0] for name in imports(MEMGUARD / f"{module}.py")} <= allowed


@pytest.mark.parametrize("module", PURE)
def test_the_core_is_pure(module: str) -> None:
    """Deciding knows no clock, no file and no process."""
    impure = {"os", "time", "io", "pathlib", "subprocess", "socket", "random", "datetime", "threading", "shutil"}
    assert not {name.split(".")[0] for name in imports(MEMGUARD / f"{module}.py")} & impure
    calls = [
        node for node in ast.walk(ast.parse((MEMGUARD / f"{module}.py").read_text())) if isinstance(node, ast.Call)
    ]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("open", "print", "exec")]


def test_the_command_knows_no_bitbake() -> None:
    """What runs outside BitBake imports no bb."""
    for path in CLI.rglob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] in ("bb", "oe")}, path


def test_the_package_holds_no_code() -> None:
    """What addpylib imports can fail in nothing: it is a docstring."""
    (statement,) = ast.parse((MEMGUARD / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)


def test_every_source_names_its_licence() -> None:
    """The SPDX line stands in the first three lines."""
    bare = [
        str(path.relative_to(ROOT))
        for path in sources()
        if "SPDX-License-Identifier: " not in "\n".join(path.read_text(encoding="utf-8").splitlines()[:3])
    ]
    assert bare == []


def test_no_module_is_a_drawer() -> None:
    """Every module is named for what it is about."""
    names = {path.stem for folder in (MEMGUARD, CLI, ROOT / "tests") for path in folder.rglob("*.py")}
    assert not [name for name in names if re.search(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)", name)]


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_every_module_says_where_it_runs(module: str) -> None:
    """The module docstring tells where the code runs."""
    assert "Runs in:" in (ast.get_docstring(ast.parse((MEMGUARD / f"{module}.py").read_text(encoding="utf-8"))) or "")


def test_every_function_of_a_test_file_has_one_sentence() -> None:
    """Each test says in a sentence what holds."""
    silent = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def variables() -> list[str]:
    """The variables that settings.py reads."""
    return sorted(set(re.findall(r'"(MEMGUARD_[A-Z_]+)', (MEMGUARD / "settings.py").read_text(encoding="utf-8"))))


@pytest.mark.parametrize("variable", variables())
def test_every_variable_is_documented(variable: str) -> None:
    """What can be set is explained beside its default, and spared a new parse."""
    from memguard import settings

    assert re.search(rf'^{variable}\[doc\] = "[^"]+"$', BBCLASS, re.MULTILINE)
    assert variable in settings.VARIABLES
    if variable != "MEMGUARD_FOOTPRINT":
        assert re.search(rf'^{variable} \?= "', BBCLASS, re.MULTILINE)


def test_no_variable_is_documented_in_vain() -> None:
    """Every variable of the class is one that settings.py reads."""
    assert set(re.findall(r"^(MEMGUARD_[A-Z_]+)", BBCLASS, re.MULTILINE)) == set(variables())


def test_defaults_of_the_class_are_the_policys() -> None:
    """A build that sets nothing gets what the documentation of the model says."""
    from memguard import settings
    from memguard.model import Policy

    defaults = dict(re.findall(r'^(MEMGUARD_[A-Z_]+) \?= "(.*)"$', BBCLASS, re.MULTILINE))
    defaults["MEMGUARD_HISTORY"] = defaults["MEMGUARD_HISTORY"].replace("${MEMGUARD_DIR}", "/build/memguard")
    assert settings.read(defaults.get) == Policy(
        directory=defaults["MEMGUARD_DIR"], history="/build/memguard/history.db"
    )


def test_ruff_finds_nothing() -> None:
    """The linter is content with every file."""
    pytest.importorskip("ruff")
    run("ruff", "check", "--no-cache", ".")


def test_every_file_is_formatted() -> None:
    """The formatter would change nothing."""
    pytest.importorskip("ruff")
    run("ruff", "format", "--no-cache", "--check", ".")


def test_types_hold() -> None:
    """Strict mypy is content with every module that needs no BitBake."""
    pytest.importorskip("mypy")
    run("mypy", *(str(MEMGUARD / f"{module}.py") for module in TYPED), str(CLI))
