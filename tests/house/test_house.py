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
from bench.constants import Constant, read_constants

from memguard.channels.build_directory import BuildDirectory

ROOT = Path(__file__).resolve().parents[2]
LAYER = ROOT / "meta-memguard"
MEMGUARD = LAYER / "lib" / "memguard"
CLI = ROOT / "lib" / "memguard_cli"
BBCLASS = (LAYER / "classes-global" / "memguard.bbclass").read_text(encoding="utf-8")

# Who may import whom within the layer: rooms of modules, and the words beside them, which everybody may use. Values
# flow one way, from sense to record; processes (server, sentinel, task) never import each other: they use channels.
WORDS = {"model", "units", "settings", "typed_json", "version"}
_SHARED = "words sense predict decide channels record"
ROOMS = {
    "words": "",
    "sense": "words",
    "predict": "words",
    "channels": "words",
    "diagnose": "",
    "decide": "words predict diagnose",
    "act": "words sense",
    "record": "words sense channels",
    "server": _SHARED,
    "sentinel": f"{_SHARED} act",
    "task": "words sense decide diagnose act channels",
    "bitbake": f"{_SHARED} act diagnose server sentinel task",
}
# The same for the command. Nobody but main imports commands; click stays in both.
CLI_WORDS = {"main", "errors"}
CLI_ROOMS = {
    "builds": "",
    "cluster": "",
    "fleet": "",
    "supervise": "",
    "advice": "builds simulation",
    "simulation": "builds",
    "screens": "builds advice simulation",
    "report": "builds advice screens",
    "commands": "builds cluster fleet supervise advice simulation screens report",
}
PURE_ROOMS = {"predict", "decide", "diagnose"}
PURE = {
    "model",
    "units",
    "typed_json",
    "version",
    "sense.mounts",
    "sense.compilers",
    "sense.tally",
    "act.job_variables",
    "channels.notes",
    "sentinel.instructions",
    "sentinel.job_memory",
    "sentinel.pace",
    "sentinel.publish",
    "sentinel.sentinel",
    "sentinel.ward",
    "sentinel.watched",
}
# footprints reads the table that lies beside it, when it is asked to.
IMPURE = {"predict.footprints"}

MOST_CLASS_LINES, MOST_MODULE_LINES = 250, 400
MODULES = sorted(
    ".".join(path.relative_to(MEMGUARD).with_suffix("").parts).replace(".__init__", "").replace("__init__", "")
    for path in MEMGUARD.rglob("*.py")
)

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


def path_of(module: str) -> Path:
    """The file of a module of the layer, by its name below memguard; "" is the package itself."""
    path = MEMGUARD.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def room_of(module: str) -> str:
    """The room that a module lies in."""
    name = module.partition(".")[0]
    return "words" if name in WORDS else name


def test_every_module_is_in_a_room() -> None:
    """Who adds a module puts it where the table says who may use it."""
    assert {room_of(module) for module in MODULES if module} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_rooms(module: str) -> None:
    """A module imports from its own room, and from those that the table allows it."""
    ours = {name.partition(".")[2] for name in imports(path_of(module)) if name.split(".")[0] == "memguard"}
    room = room_of(module)
    assert {room_of(name) for name in ours} <= {room, *ROOMS.get(room, "").split()}


def test_no_module_reaches_into_another() -> None:
    """What begins with an underscore stays in its module."""
    taken = [
        f"{path.relative_to(ROOT)}: {node.module}.{alias.name}"
        for folder in (MEMGUARD, CLI)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("memguard", "memguard_cli")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


def test_the_table_has_no_circle() -> None:
    """The rooms can be put in an order."""
    left = {room: set(allowed.split()) for room, allowed in ROOMS.items()}
    while left:
        ready = [room for room, allowed in left.items() if not allowed & set(left)]
        assert ready, f"in a circle: {sorted(left)}"
        for room in ready:
            del left[room]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is there from 3.10 on")
@pytest.mark.parametrize("module", MODULES)
def test_the_layer_needs_the_standard_library_only(module: str) -> None:
    """Whatever runs in BitBake needs nothing beside Python, and bb in its own room alone."""
    allowed = {*sys.stdlib_module_names, "memguard", *(["bb"] if room_of(module) == "bitbake" else [])}
    assert {name.split(".")[0] for name in imports(path_of(module))} <= allowed


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name in PURE or (room_of(name) in PURE_ROOMS and name not in IMPURE)],
)
def test_the_core_is_pure(module: str) -> None:
    """Deciding knows no clock, no file and no process."""
    impure = {"os", "time", "io", "pathlib", "subprocess", "socket", "random", "datetime", "threading", "shutil"}
    assert not {name.split(".")[0] for name in imports(path_of(module))} & impure
    calls = [node for node in ast.walk(ast.parse(path_of(module).read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("open", "print", "exec")]


def name_of(path: Path) -> str:
    """A module of either package, as people write it: from the package's name on."""
    return str(path.relative_to((MEMGUARD if MEMGUARD in path.parents else CLI).parent))


def code() -> list[Path]:
    """Every module of the layer and of the command."""
    return sorted(path for package in (MEMGUARD, CLI) for path in package.rglob("*.py"))


def test_rooms_of_the_command_keep_to_their_table() -> None:
    """A module imports from its own room, and from those that the table allows it; builds are read by everybody."""
    strays = set()
    for path in CLI.glob("*/*.py"):
        room = path.parent.name
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("memguard_cli.")}
        strays |= {f"{path.relative_to(CLI)}: {name}" for name in ours - {room, "errors", *CLI_ROOMS[room].split()}}
    assert strays == set()


def test_click_stays_where_words_of_users_come_in() -> None:
    """What commands use raises errors of its own."""
    users = {str(path.relative_to(CLI)) for path in CLI.rglob("*.py") if "click" in imports(path)}
    assert {name for name in users if not re.match(r"main\.py|commands/", name)} == set()


def test_paths_of_a_build_are_named_once() -> None:
    """Whoever needs a path below MEMGUARD_DIR asks BuildDirectory."""
    directory = BuildDirectory(Path("top"))
    paths = [getattr(directory, name) for name, value in vars(BuildDirectory).items() if isinstance(value, property)]
    names = {path.name for path in paths if isinstance(path, Path)}
    literals = {
        name_of(path)
        for path in code()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant) and node.right.value in names
    }
    assert literals - {"memguard/channels/build_directory.py"} == set()


def test_no_module_is_long() -> None:
    """Who opens a module can read it to its end."""
    long = {name_of(path) for path in code() if len(path.read_bytes().splitlines()) > MOST_MODULE_LINES}
    assert long == set()


def test_no_class_is_long() -> None:
    """A class is about one thing."""
    long = {
        f"{name_of(path)}: {node.name}"
        for path in code()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= MOST_CLASS_LINES
    }
    assert long == set()


@pytest.mark.parametrize("room", sorted({*ROOMS} - {"words"}))
def test_a_room_says_what_it_may_import(room: str) -> None:
    """The docstring at its door has what the table has."""
    door = ast.get_docstring(ast.parse((MEMGUARD / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    sentence = re.search(r"May import ([^.;]*)", door)
    assert sentence, door
    named = {word for word in re.findall(r"\w+", sentence[1].partition(", never")[0]) if word in ROOMS}
    everything = set(ROOMS) - {room} if "everything" in sentence[1] else set()
    assert named | everything == set(ROOMS[room].split())


def test_every_room_has_a_door() -> None:
    """Each folder of modules is a package whose docstring says what is in it."""
    folders = {path.parent for path in code()}
    assert {folder.name for folder in folders if folder.parent == CLI} == set(CLI_ROOMS)
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_the_wheel_has_every_package() -> None:
    """pyproject lists each folder with modules, and each file beside them that they read."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed
    packages = {name_of(path.parent / "x").rpartition("/")[0].replace("/", ".") for path in code()}
    assert re.findall(r'"([\w.]+)"', listed[1]) == sorted(packages)
    data = dict(re.findall(r'^"([\w.]+)" = \["(.+)"\]$', project, re.MULTILINE))
    shipped = {
        path
        for package, pattern in data.items()
        for path in (MEMGUARD if package.split(".")[0] == "memguard" else CLI)
        .joinpath(*package.split(".")[1:])
        .glob(pattern)
    }
    others = {path for package in (MEMGUARD, CLI) for path in package.rglob("*") if path.is_file()}
    assert {path for path in others if path.suffix not in (".py", ".pyc")} == shipped


def test_unit_tests_start_no_process() -> None:
    """They need nothing of the machine; what does is in tests/process."""
    starters = {
        path.name
        for path in (ROOT / "tests" / "unit").glob("*.py")
        if re.search(
            r"\bsubprocess\.(run|Popen|check_)|\bos\.fork|\bmultiprocessing\b", path.read_text(encoding="utf-8")
        )
    }
    assert starters == set()


def test_the_command_knows_no_bitbake() -> None:
    """What runs outside BitBake imports no bb."""
    for path in CLI.rglob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] in ("bb", "oe")}, path


def test_the_package_holds_no_code() -> None:
    """What addpylib imports can fail in nothing: it is a docstring, and so is that of every room."""
    for path in MEMGUARD.rglob("__init__.py"):
        (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(statement, ast.Expr), path
        assert isinstance(statement.value, ast.Constant), path


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


@pytest.mark.parametrize("module", [name for name in MODULES if path_of(name).name != "__init__.py"])
def test_every_module_says_where_it_runs(module: str) -> None:
    """The module docstring tells where the code runs."""
    assert "Runs in:" in (ast.get_docstring(ast.parse(path_of(module).read_text(encoding="utf-8"))) or "")


# Who opens files by themselves, and what they open. What lies below MEMGUARD_DIR others could have planted: it goes
# through channels.plain_file, or through a descriptor that was opened there.
OPENERS = {
    "act.give_way": "/proc",
    "act.half_written": "/proc",
    "act.signals": "/proc",
    "act.task_cgroup": "the kernel's cgroups",
    "act.token_pool": "FIFOs, which it checks",
    "bitbake.task_again": "the task's own log",
    "bitbake.task_pool": "a FIFO that it has just made",
    "channels.fifo": "a FIFO, which it checks",
    "channels.neighbours": "files below a directory that it checks",
    "channels.plain_file": "plain files, which it checks",
    "predict.footprints": "the table beside it",
    "record.event_log": "new files only",
    "record.history.connection": "/proc, and new files only",
    "sense": "the kernel's files",
}


def test_no_file_that_others_can_plant_is_opened_blindly() -> None:
    """A FIFO in place of a file would be waited for, and a link leads to a foreign one."""
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            is_wrapped = isinstance(node, ast.Call) and bool(node.args) and _opens_by_descriptor(node.args[0])
            if name in ("open", "read_text", "write_text", "read_bytes", "write_bytes", "mkfifo") and not is_wrapped:
                found.add("sense" if module.startswith("sense.") else module)
    assert found == set(OPENERS)


def _opens_by_descriptor(argument: ast.expr) -> bool:
    """Whether what is opened is what open_plain() gives."""
    return (isinstance(argument, ast.Name) and argument.id == "file") or (
        isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id == "open_plain"
    )


def test_every_function_of_a_test_file_has_one_sentence() -> None:
    """Each test says in a sentence what holds."""
    silent = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "tests").glob("*/test_*.py")
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


def test_every_constant_has_its_evidence_and_its_row() -> None:
    """Each number by which memguard decides says what it rests on, and docs/constants.md has what the sources have."""
    constants = read_constants()
    assert [constant.full_name for constant in constants if not constant.evidence] == []
    rows, module = [], ""
    for line in (ROOT / "docs" / "constants.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            module = "memguard." + line[3:].removesuffix(".py").replace("/", ".")
        elif row := re.fullmatch(r"\| `(\w+)` \| `(.+?)` \| .+? \| .+? \| (.+) \|", line):
            rows.append(Constant(module, *row.groups()))
    assert rows == constants


def test_ruff_finds_nothing() -> None:
    """The linter is content with every file."""
    pytest.importorskip("ruff")
    run("ruff", "check", "--no-cache", ".")


def test_every_file_is_formatted() -> None:
    """The formatter would change nothing."""
    pytest.importorskip("ruff")
    run("ruff", "format", "--no-cache", "--check", ".")


def test_types_hold() -> None:
    """Strict mypy is content with every module."""
    pytest.importorskip("mypy")
    run("mypy")
