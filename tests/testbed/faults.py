# SPDX-License-Identifier: MIT
"""Faults planted into a copy of the layer: a function of it raises, in the process and at the call that a plan says.

Covers: the copy, in which every function first asks whether it is its turn; plans, and which faults took place.
Does not cover: builds with it (see `builddir`), and what must come of them.

The entries from BitBake are left alone: they do nothing but call the rest, and catch what it raises.
"""

from __future__ import annotations

import ast
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LAYER = Path(__file__).resolve().parents[2] / "meta-memguard"
ROLES = ("server", "worker", "sentinel")
# The calls at which a function may raise, as far as it has as many.
CALLS = (1, 2, 3, 5, 10, 30, 100)
KINDS = (
    "OSError(5, 'planted')",
    "PermissionError(13, 'planted')",
    "BlockingIOError(11, 'planted')",
    "FileNotFoundError(2, 'planted')",
    "ValueError('planted')",
    "TypeError('planted')",
    "KeyError('planted')",
    "IndexError('planted')",
    "AttributeError('planted')",
    "RuntimeError('planted')",
    "AssertionError('planted')",
    "ZeroDivisionError('planted')",
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'planted')",
    "RecursionError('planted')",
    "MemoryError('planted')",
)
# What BitBake and Python's logging call, and what these call to step aside.
ENTRIES = {
    "bitbake/handlers.py:handle",
    "bitbake/task.py:handle",
    "bitbake/session.py:step_aside",
    "bitbake/task_again.py:run_again",
    "bitbake/held_records.py:HeldRecords._take",
    "task/retry.py:run",
    "task/retry.py:_attempt",
    "bitbake/scheduler.py:_Guarded.__init__",
    "bitbake/scheduler.py:_Guarded.next",
    "bitbake/scheduler.py:_Guarded.next_buildable_task",
    "bitbake/scheduler.py:_Guarded.newbuildable",
    "bitbake/scheduler.py:_Guarded.removebuildable",
    "bitbake/scheduler.py:_Guarded._step_aside",
}

_PROGRAM = '''# SPDX-License-Identifier: MIT
"""The layer's package, with a plan of faults."""
import json, os, sys
_HERE = __file__.rpartition("/meta-memguard/")[0]
_calls = {}
try:
    with open(_HERE + "/plan.json") as _file:
        _plan = json.load(_file)
except OSError:
    _plan = None

def _role():
    if "bb" not in sys.modules:
        return "sentinel"
    event = sys.modules.get("bb.event")
    return "server" if event is None or event.worker_fire is None else "worker"

def _say(name, text):
    file = os.open(_HERE + "/" + name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(file, (text + "\\n").encode())
    os.close(file)

def strike(function):
    calls = _calls[function] = _calls.get(function, 0) + 1
    if _plan is None:
        if calls in CALLS:
            _say("called", "%s %s %d" % (_role(), function, calls))
        return
    for fault in _plan.get(function, ()):
        if fault["call"] > calls or fault["role"] != _role():
            continue
        try:
            os.close(os.open(_HERE + "/struck-%d" % fault["number"], os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        raise eval(fault["kind"])
'''.replace("CALLS", str(CALLS))


@dataclass(frozen=True)
class Fault:
    """In a process of this role `function` raises `kind` (an expression) at its `call`-th call, once in a build."""

    number: int
    role: str
    function: str
    call: int
    kind: str


def plant(directory: Path) -> Path:
    """A copy of the layer below `directory`, which records what is called until it has a plan; the layer."""
    copy = directory / "meta-memguard"
    shutil.copytree(LAYER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    package = copy / "lib" / "memguard"
    for path in package.rglob("*.py"):
        if path.name != "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            _arm(tree, f"{path.relative_to(package)}:")
            path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    (package / "__init__.py").write_text(_PROGRAM, encoding="utf-8")
    return copy


def _arm(node: ast.AST, name: str) -> None:
    """Let each function in `node` begin with the question whether it is its turn."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            full = f"{name}{child.name}"
            _arm(child, f"{full}." if isinstance(child, ast.ClassDef) else name)
            if isinstance(child, ast.FunctionDef) and full not in ENTRIES:
                (question,) = ast.parse(f"__import__('memguard').strike({full!r})").body
                child.body.insert(int(ast.get_docstring(child) is not None), question)
        else:
            _arm(child, name)


def called(directory: Path) -> dict[str, dict[str, int]]:
    """The functions that were called in a build without a plan, by role, and how often at least, up to 100 times."""
    found: dict[str, dict[str, int]] = {role: {} for role in ROLES}
    for line in (directory / "called").read_text(encoding="utf-8").splitlines():
        role, name, calls = line.split(" ")
        found[role][name] = max(int(calls), found[role].get(name, 0))
    return found


def draw(functions: dict[str, dict[str, int]], counts: dict[str, int], seed: int) -> list[Fault]:
    """As many faults of each role as `counts` says, in different functions; over many seeds every function has one.

    The processes of tasks are short and many, so there it is the first call.
    """
    dice = random.Random(seed)
    chosen = []
    for role, count in counts.items():
        names = sorted(functions[role])
        random.Random(role).shuffle(names)
        first = seed * count
        chosen += [(role, names[place % len(names)]) for place in range(first, first + min(count, len(names)))]
    faults = []
    for number, (role, name) in enumerate(chosen):
        calls = [call for call in CALLS if call <= functions[role][name]] if role != "worker" else [1]
        faults.append(Fault(number, role, name, dice.choice(calls), dice.choice(KINDS)))
    return faults


def order(directory: Path, faults: Iterable[Fault]) -> None:
    """Let these faults take place in the next build."""
    for left in directory.glob("struck-*"):
        left.unlink()
    plan: dict[str, list[dict[str, object]]] = {}
    for fault in faults:
        plan.setdefault(fault.function, []).append(asdict(fault))
    (directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def struck(directory: Path, faults: Sequence[Fault]) -> list[Fault]:
    """Those that took place."""
    return [fault for fault in faults if (directory / f"struck-{fault.number}").exists()]
