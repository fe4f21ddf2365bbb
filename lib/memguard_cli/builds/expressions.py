# SPDX-License-Identifier: MIT
"""What `${@...}` in a configuration file comes to, for the part of Python that such files use.

Runs in: outside BitBake; nothing of a file is ever executed: its syntax tree is walked, node by node.
Covers: arithmetic, comparisons, text and its methods, f-strings, and the functions of os, bb.utils, oe.utils and d that
ask for CPUs, memory, variables and files.
Does not cover: anything else, which CannotTell says; what BitBake itself would fail at is a Mistake.
"""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memguard_cli.builds.operators import (
    LARGEST_NUMBER,
    LONGEST_TEXT,
    OPERATORS,
    CannotTell,
    Mistake,
    check_format,
    check_length,
)

# More than any real expression has; beyond that a file may only want to cost time and memory.
_LONGEST_CODE = 4096


@dataclass(frozen=True)
class Machine:
    """What an expression may ask of the machine.

    cpus:   those that the process may run on, as sched_getaffinity() counts them: no CPU quota is in it.
    online: all that the machine has, as os.cpu_count() does.
    """

    cpus: int
    online: int
    memory_bytes: int | None = None

    @staticmethod
    def here() -> Machine:
        """The machine that this runs on."""
        return Machine(
            len(os.sched_getaffinity(0)), os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        )


# What a variable says, None where it is not set. Raises CannotTell and Mistake.
Lookup = Callable[[str], "str | None"]


def evaluate(code: str, lookup: Lookup, machine: Machine) -> Any:
    """The value of an expression. Raises CannotTell, and Mistake where BitBake would fail."""
    if len(code) > _LONGEST_CODE:
        raise CannotTell("the expression is too long")
    try:
        tree = ast.parse(code.strip(), mode="eval")
        return _Evaluation(lookup, machine).value(tree.body)
    except SyntaxError as error:
        raise Mistake(f"it is not Python: {error.msg}") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise Mistake(f"Python says {type(error).__name__}: {error}") from None
    except (RecursionError, MemoryError):
        raise CannotTell("the expression is nested too deeply") from None


class _Data:
    """`d`, as an argument."""


class _Output(str):
    """What a command has written, as os.popen() gives it."""

    def read(self) -> str:
        """All of it."""
        return str(self)


_BUILTINS: Mapping[str, Callable[..., Any]] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "min": min,
    "max": max,
    "round": round,
    "abs": abs,
    "len": len,
    "sum": sum,
    "sorted": sorted,
    "divmod": divmod,
}
_TEXT_METHODS = (
    *("strip", "lstrip", "rstrip", "split", "replace", "join", "partition", "rpartition", "format"),
    *("read", "lower", "upper", "startswith", "endswith", "isdigit", "count", "find"),
)
_SYSCONF = ("SC_NPROCESSORS_ONLN", "SC_NPROCESSORS_CONF", "SC_PHYS_PAGES", "SC_PAGE_SIZE", "SC_PAGESIZE")
# What BitBake's expressions find besides Python's own names; everything else is a variable.
_MODULES = ("os", "bb", "oe", "d", "time")
# What is often taken to be there, and is not.
_ABSENT = ("multiprocessing", "math", "subprocess", "sys", "re", "psutil", "platform")


class _Evaluation:
    """One expression."""

    def __init__(self, lookup: Lookup, machine: Machine) -> None:
        self._lookup = lookup
        self._machine = machine
        self._functions: dict[str, Callable[..., Any]] = {
            "d.getVar": lambda name, expand=True, noweakdefault=False: lookup(name),
            "os.cpu_count": lambda: machine.online,
            "os.process_cpu_count": lambda: machine.cpus,
            "os.sched_getaffinity": lambda process: range(machine.cpus),
            "os.sysconf": self._sysconf,
            "os.uname": lambda: tuple(os.uname()),
            "os.popen": self._popen,
            "os.getenv": self._environment,
            "os.environ.get": self._environment,
            "os.path.exists": os.path.exists,
            "os.path.isfile": os.path.isfile,
            "os.path.isdir": os.path.isdir,
            "os.path.join": os.path.join,
            "os.path.dirname": os.path.dirname,
            "os.path.basename": os.path.basename,
            "os.path.abspath": os.path.abspath,
            "os.path.realpath": os.path.realpath,
            "multiprocessing.cpu_count": lambda: machine.online,
            "math.ceil": math.ceil,
            "math.floor": math.floor,
            # Of a recipe's file name; that of a configuration file says nothing.
            "bb.parse.vars_from_file": lambda path, d: (None, None, None),
            "bb.utils.cpu_count": lambda: machine.cpus,
            "bb.utils.to_boolean": _to_boolean,
            "bb.utils.contains": self._contains,
            "oe.utils.cpu_count": lambda at_least=1, at_most=64: max(min(machine.cpus, at_most), at_least),
            "oe.utils.conditional": lambda name, value, yes, no, d: yes if lookup(name) == value else no,
            "oe.utils.ifelse": lambda condition, yes=True, no=False: yes if condition else no,
            "oe.utils.get_bb_number_threads": lambda d: int(lookup("BB_NUMBER_THREADS") or machine.online),
        }

    def value(self, node: ast.expr) -> Any:
        """What one node comes to."""
        visit = getattr(self, f"_{type(node).__name__.lower()}", None)
        if visit is None:
            raise CannotTell(f"it has a {type(node).__name__} that is for BitBake to work out")
        result = visit(node)
        if isinstance(result, str) and len(result) > LONGEST_TEXT:
            raise CannotTell("a text in it is too long")
        if isinstance(result, int) and abs(result) > LARGEST_NUMBER:
            raise CannotTell("a number in it is too large")
        return result

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _binop(self, node: ast.BinOp) -> Any:
        return self._operator(node.op)(self.value(node.left), self.value(node.right))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return self._operator(node.op)(self.value(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is isinstance(node.op, ast.Or):
                break
        return result

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for kind, part in zip(node.ops, node.comparators):
            right = self.value(part)
            if not self._operator(kind)(left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _list(self, node: ast.List) -> list[Any]:
        return [self.value(part) for part in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.value(part) for part in node.elts)

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        keys = [self.value(key) for key in node.keys if key is not None]
        return dict(zip(keys, (self.value(part) for part in node.values)))

    def _subscript(self, node: ast.Subscript) -> Any:
        if _dotted(node.value) == "os.sysconf_names":
            return self.value(node.slice)
        return self.value(node.value)[self.value(node.slice)]

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(self.value(part) if part is not None else None for part in (node.lower, node.upper, node.step)))

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self.value(part)) for part in node.values)

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        value = self.value(node.value)
        if node.conversion == ord("r"):
            value = repr(value)
        specification = str(self.value(node.format_spec)) if node.format_spec is not None else ""
        check_format(specification)
        return format(value, specification)

    def _name(self, node: ast.Name) -> Any:
        if node.id == "d":
            return _Data()
        if node.id in _MODULES or node.id in _BUILTINS:
            raise CannotTell(f"it uses {node.id} in a way that is for BitBake to work out")
        value = self._lookup(node.id)
        if value is None:
            raise Mistake(f"nothing is called {node.id} there{_instead(node.id)}")
        return value

    def _attribute(self, node: ast.Attribute) -> Any:
        self._require_module(node)
        raise CannotTell(f"{_dotted(node) or 'what it uses'} is for BitBake to work out")

    def _call(self, node: ast.Call) -> Any:
        name = _dotted(node.func)
        self._require_module(node.func)
        function = _BUILTINS.get(name) or self._functions.get(name)
        if function is None and not (isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT_METHODS):
            raise CannotTell(f"{name or 'what it calls'}() is for BitBake to work out")
        arguments = [self.value(argument) for argument in node.args]
        words = {word.arg: self.value(word.value) for word in node.keywords if word.arg}
        if function is None and isinstance(node.func, ast.Attribute):
            function = self._method(node.func, arguments)
        return function(*arguments, **words) if function is not None else None

    def _method(self, node: ast.Attribute, arguments: Sequence[Any]) -> Callable[..., Any]:
        """A method of a text."""
        text = self.value(node.value)
        if not isinstance(text, str):
            raise CannotTell(f"{node.attr}() of something that is not text is for BitBake to work out")
        check_length(node.attr, text, arguments)
        method: Callable[..., Any] = getattr(text, node.attr)
        return method

    # -- what they ask -------------------------------------------------------------------------------------------

    def _operator(self, node: ast.AST) -> Callable[..., Any]:
        if type(node) not in OPERATORS:
            raise CannotTell(f"{type(node).__name__} is for BitBake to work out")
        return OPERATORS[type(node)]

    def _require_module(self, node: ast.expr) -> None:
        """Raises Mistake for what is reached by the name of a module that BitBake's expressions do not have."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if isinstance(node, ast.Name) and node.id in _ABSENT and self._lookup(node.id) is None:
            raise Mistake(f"nothing is called {node.id} there{_instead(node.id)}")

    def _sysconf(self, name: str) -> int:
        if name not in _SYSCONF:
            raise CannotTell(f"os.sysconf({name!r}) is for BitBake to work out")
        if name.startswith("SC_NPROC"):
            return self._machine.online
        if name.startswith("SC_PAGE"):
            return os.sysconf("SC_PAGE_SIZE")
        if self._machine.memory_bytes is None:
            raise CannotTell("the machine's memory cannot be read")
        return self._machine.memory_bytes // os.sysconf("SC_PAGE_SIZE")

    def _popen(self, command: str) -> _Output:
        counts = {"nproc": self._machine.cpus, "nproc --all": self._machine.online}
        counts["getconf _NPROCESSORS_ONLN"] = self._machine.online
        if command.strip() not in counts:
            raise CannotTell(f"it runs {command[:40]!r}")
        return _Output(f"{counts[command.strip()]}\n")

    def _environment(self, name: str, default: Any = None) -> Any:
        """What BitBake passes on from the environment; it clears the rest."""
        passed_on = os.environ.get("BB_ENV_PASSTHROUGH_ADDITIONS")
        if passed_on is None:
            raise CannotTell(f"it asks for {name} in the environment of the shell in which you build")
        return os.environ.get(name, default) if name in passed_on.split() else default

    def _contains(self, name: str, wanted: Any, yes: Any, no: Any, d: Any) -> Any:
        value = self._lookup(name)
        if value is None:
            raise CannotTell(f"{name} is not set in the files that are at hand")
        words = set(value.split())
        return yes if set(wanted.split() if isinstance(wanted, str) else wanted) <= words and words else no


def _dotted(node: ast.expr) -> str:
    """`os.path.join` of a chain of names, `math.ceil` of `__import__("math").ceil`; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    is_import = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "__import__"
    if is_import and isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return ""


def _instead(name: str) -> str:
    if name == "multiprocessing":
        return "; os.cpu_count() is"
    return f"; __import__('{name}') is" if name in _ABSENT else ""


def _to_boolean(text: Any, default: Any = None) -> bool:
    if not text:
        return bool(default)
    if str(text).lower() in ("y", "yes", "1", "true"):
        return True
    if str(text).lower() in ("n", "no", "0", "false"):
        return False
    raise ValueError(f"invalid value for boolean: {text}")
