# SPDX-License-Identifier: MIT
"""Variables as BitBake keeps them: operators, overrides, `:append` and its kin, and what a value comes to.

Runs in: outside BitBake; pure but for what expressions ask of the machine.
Covers: the order in which BitBake applies all of these, also in the syntax with `_` that releases before honister have.
Does not cover: flags, functions and classes; which files say what (conf_files).
Source of the rules: BitBake's manual, "Syntax and Operators"; tests hold it against BitBake itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from memguard_cli.builds.expressions import Machine, evaluate
from memguard_cli.builds.operators import CannotTell, Mistake

_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_+./~:-]+)\}")
_PYTHON = re.compile(r"\$\{@((?:\{.*?\}|.)+?)\}", re.DOTALL)
_OPERATION = re.compile(r"(?P<base>.*?):(?P<keyword>append|prepend|remove)(?::(?P<override>[^A-Z]*))?")
_OVERRIDE = re.compile(r"[a-z0-9]")
# A name in the old syntax: capitals, then what can only be an operation or an override.
_OLD_NAME = re.compile(r"(?P<base>[A-Z][A-Z0-9_]*?[A-Z0-9])(?P<rest>(?:_[a-z][a-z0-9.+~-]*)+)")
# Overrides that are those of one recipe, task or kind of recipe, never of the whole configuration.
_NARROW = ("pn-", "class-", "task-", "layer-", "libc-", "toolchain-", "tclibc-", "virtclass-")
_LONGEST_VALUE = 1 << 16
_MOST_PASSES = 64


class Datastore:
    """All variables. `is_complete`: no override can be set by a file that was not read.

    get() and expand() raise CannotTell, and Mistake for what BitBake itself stops at.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.is_complete = False
        self.origins: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._weak: dict[str, str] = {}
        # By operation and name: what is added or taken away, and the overrides it depends on.
        self._operations: dict[tuple[str, str], list[tuple[str, str]]] = {}
        # By name: the overrides it has values for, and the name of each.
        self._variants: dict[str, dict[str, str]] = {}
        self._gaps: list[str] = []
        self._gaps_before: dict[str, int] = {}
        self._active: tuple[str, ...] | None = None
        self._being_expanded: list[str] = []
        self._is_lenient = False

    # -- what files do -------------------------------------------------------------------------------------------

    def assign(self, name: str, operator: str, value: str, origin: str = "") -> None:
        """One line `name operator "value"` of the file `origin`."""
        name = _new_syntax(name)
        self._active = None
        before = self._values.get(name)
        if operator == "??=":
            self._weak[name] = value
            self._register(name)
            return
        if operator == "?=" and before is not None:
            return
        if operator == ":=":
            value = self._expand_now(value)
        elif operator in ("+=", "=+", ".=", "=."):
            gap = " " if "+" in operator else ""
            parts = (before or "", value) if operator[-1] == "=" else (value, before or "")
            value = gap.join(parts)
        found = _OPERATION.fullmatch(name)
        if found:
            self._operations.setdefault((found["keyword"], found["base"]), []).append((value, found["override"] or ""))
            self._register(found["base"])
            return
        self._values[name] = value[:_LONGEST_VALUE]
        self.origins[name] = origin
        if operator in ("=", ":="):
            self._gaps_before[name] = len(self._gaps)
        self._register(name)

    def unset(self, name: str) -> None:
        """`unset name`."""
        self._active = None
        self._values.pop(name, None)
        self._weak.pop(name, None)
        self._variants.pop(name, None)
        for keyword in ("append", "prepend", "remove"):
            self._operations.pop((keyword, name), None)

    def leave_gap(self, what: str) -> None:
        """Something was to be read here that is not at hand: what is not set after it may be set by it."""
        self._gaps.append(what)

    def replace_everywhere(self, reference: str, text: str) -> None:
        """Put a text in place of ${reference}, as BitBake does with LAYERDIR behind each layer.conf."""
        written = f"${{{reference}}}"
        for values in (self._values, self._weak):
            for name, value in values.items():
                if written in value:
                    values[name] = value.replace(written, text)
        for key, found in self._operations.items():
            self._operations[key] = [(value.replace(written, text), override) for value, override in found]

    def for_recipe(self, recipe: str) -> Datastore:
        """The same variables as one recipe sees them, before its own lines."""
        other = copy.deepcopy(self)
        other.assign("PN", "=", recipe)
        for kind in ("native", "cross", "crosssdk"):
            if recipe.endswith(f"-{kind}"):
                other.assign("CLASSOVERRIDE", "=", f"class-{kind}")
        if recipe.startswith("nativesdk-"):
            other.assign("CLASSOVERRIDE", "=", "class-nativesdk")
        return other

    def _register(self, name: str) -> None:
        """Make the value of A:x:y known as that of A for x and y, and of A:x for y."""
        short = name
        while ":" in short:
            short, _, _ = short.rpartition(":")
            override = name[len(short) + 1 :]
            if not _OVERRIDE.match(override):
                return
            self._variants.setdefault(short, {})[override] = name

    def _expand_now(self, value: str) -> str:
        try:
            return self.expand(value)
        except (CannotTell, Mistake):
            return value

    # -- what a variable says ------------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """The value of a variable, None where it is not set."""
        value = self.written(name)
        gap = self._gap_behind(name)
        if gap:
            raise CannotTell(gap)
        if value is None:
            return None
        if name in self._being_expanded:
            raise Mistake(f"{name} refers to itself")
        self._being_expanded.append(name)
        try:
            value = self.expand(value)
            removed = {word for text in self._applying("remove", name) for word in self.expand(text).split()}
        finally:
            self._being_expanded.pop()
        if not removed:
            return value
        return "".join(part for part in re.split(r"(\s+)", value) if part not in removed)

    def written(self, name: str) -> str | None:
        """The value of a variable before anything in it is expanded, None where it is not set."""
        chosen = self._chosen(name)
        value = self.written(chosen) if chosen is not None else self._values.get(name, self._weak.get(name))
        for text in self._applying("append", name):
            value = f"{value or ''}{text}"
        for text in self._applying("prepend", name):
            value = f"{text}{value or ''}"
        return value

    def expand(self, text: str) -> str:
        """A text with all that can be expanded; a variable that is not set stays as it is written, as in BitBake."""
        for _ in range(_MOST_PASSES):
            before = text
            text = _REFERENCE.sub(self._reference, text)
            text = _PYTHON.sub(self._python, text)
            if text == before:
                return text
            if len(text) > _LONGEST_VALUE:
                break
        raise CannotTell("its value never ends")

    def _reference(self, found: re.Match[str]) -> str:
        value = self.get(found[1])
        return found[0] if value is None else value

    def _python(self, found: re.Match[str]) -> str:
        if _REFERENCE.search(found[1]):
            return found[0]
        try:
            value = evaluate(found[1], self.get, self.machine)
        except (CannotTell, Mistake):
            if self._is_lenient:
                return ""
            raise
        if value is None and not self.is_complete and not self._is_lenient:
            raise CannotTell(f"what {found[1].strip()[:60]} asks for is not set in the files that are at hand")
        return str(value)

    def _gap_behind(self, name: str) -> str:
        """A file that is not at hand and may have set this variable behind the last line that set it here."""
        last = self._gaps_before.get(self._chosen(name) or name, 0)
        return self._gaps[last] if not self._is_lenient and last < len(self._gaps) and _is_count(name) else ""

    # -- overrides -----------------------------------------------------------------------------------------------

    def _chosen(self, name: str) -> str | None:
        """The variant of a variable that counts, None where none applies."""
        waiting = {}
        for override, variant in self._variants.get(name, {}).items():
            is_set = variant in self._values or variant in self._weak or self._has_operations(variant)
            if is_set and self._applies(override, name):
                waiting[override] = variant
        chosen, has_changed = None, bool(waiting)
        while has_changed:
            has_changed = False
            for active in self._overrides():
                for override in list(waiting):
                    if override == active:
                        chosen = waiting.pop(override)
                    elif override.endswith(f":{active}"):
                        waiting[override[: -len(active) - 1]] = waiting.pop(override)
                        has_changed = True
        return chosen

    def _has_operations(self, name: str) -> bool:
        return any((keyword, name) in self._operations for keyword in ("append", "prepend"))

    def _applying(self, keyword: str, name: str) -> Iterator[str]:
        for text, override in self._operations.get((keyword, name), ()):
            if not override or self._applies(override, name):
                yield text

    def _applies(self, override: str, name: str) -> bool:
        """Whether overrides, joined by colons, are all active."""
        absent = [part for part in override.split(":") if part not in self._overrides()]
        unknown = [part for part in absent if not part.startswith(_NARROW)]
        if absent == unknown and unknown and not self.is_complete and not self._is_lenient and _is_count(name):
            raise CannotTell(f"it depends on whether {unknown[0]} is among OVERRIDES")
        return not absent

    def _overrides(self) -> Sequence[str]:
        """The active overrides, the weakest first."""
        if self._active is None:
            self._active = ()
            with self._leniently():
                for _ in range(5):
                    before = self._active
                    self._active = tuple((self.get("OVERRIDES") or "").split(":"))
                    if self._active == before:
                        break
        return self._active

    @contextmanager
    def _leniently(self) -> Iterator[None]:
        """What only BitBake can work out is empty meanwhile."""
        was, stack = self._is_lenient, self._being_expanded
        self._is_lenient, self._being_expanded = True, []
        try:
            yield
        except (CannotTell, Mistake):
            pass
        finally:
            self._is_lenient, self._being_expanded = was, stack


def _is_count(name: str) -> bool:
    """Whether a variable says how many jobs there are: of others a guess will do where a file is not at hand."""
    return name.partition(":")[0] in ("BB_NUMBER_THREADS", "PARALLEL_MAKE", "ICECC_PARALLEL_MAKE")


def _new_syntax(name: str) -> str:
    """A name with `:` before overrides and operations where it is written with `_`, as before honister."""
    found = _OLD_NAME.fullmatch(name)
    if not found or ":" in name:
        return name
    parts = found["rest"][1:].split("_")
    is_old = any(part in ("append", "prepend", "remove", "forcevariable") or part.startswith(_NARROW) for part in parts)
    return ":".join((found["base"], *parts)) if is_old else name
