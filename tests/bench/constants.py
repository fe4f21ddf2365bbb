# SPDX-License-Identifier: MIT
"""The numbers by which memguard decides: where each stands, what it rests on, and what half and double of it make.

Covers: reading them from the sources, with the evidence in their comments; replaying builds with another value.
Does not cover: the replay (bench/replay.py), and whether the evidence is any good.
"""

from __future__ import annotations

import ast
import concurrent.futures
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LAYER = Path(__file__).resolve().parents[2] / "meta-memguard" / "lib"
# The rooms of which every number is one.
ROOMS = ("decide", "predict", "sentinel")
# The builds that are replayed with another value.
BUILT = ("first", "second")
FACTORS = (0.5, 2.0)
_EVIDENCE = "evidence: "


@dataclass(frozen=True)
class Constant:
    """A number with a name. value: as it is written; evidence: what the comment above it says it rests on."""

    module: str
    name: str
    value: str
    evidence: str

    @property
    def full_name(self) -> str:
        """As people name it: several modules have one of the same name."""
        return f"{self.module.rpartition('.')[2]}.{self.name}"


def read_constants(rooms: Sequence[str] = ROOMS) -> list[Constant]:
    """All numbers of these rooms, in the order of their modules."""
    paths = (path for room in rooms for path in sorted((LAYER / "memguard" / room).glob("*.py")))
    return [constant for path in paths for constant in _read_module(path)]


def _read_module(path: Path) -> Iterator[Constant]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    module = ".".join(path.relative_to(LAYER).with_suffix("").parts)
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id.isupper() and _is_number(node.value):
            value = ast.get_source_segment(source, node.value) or ""
            yield Constant(module, target.id, value, _evidence(lines, node.lineno - 1))


def _is_number(node: ast.expr) -> bool:
    """Whether an expression is a number: literals, and other constants, with signs between them."""
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    is_literal = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return is_literal or (isinstance(node, ast.Name) and node.id.isupper())


def _evidence(lines: Sequence[str], at: int) -> str:
    """What stands after "evidence:" in the comment above the line at this index, or above the lines that precede it
    directly: a comment counts for all that follow it without a gap."""
    while at > 0 and lines[at - 1] and not lines[at - 1].startswith("#"):
        at -= 1
    end = at
    while at > 0 and lines[at - 1].startswith("#"):
        at -= 1
    text = " ".join(line.lstrip("# ") for line in lines[at:end])
    return text.partition(_EVIDENCE)[2]


def find(constants: Iterable[Constant], name: str) -> list[Constant]:
    """Those that are meant by a name: REACTION_S, or moment.REACTION_S where several have it."""
    return [constant for constant in constants if name in (constant.name, constant.full_name)]


@dataclass(frozen=True)
class Result:
    """Wall seconds of each build (None: not built), and how many jobs memguard killed in it; one for each seed."""

    wall_s: tuple[tuple[float | None, ...], ...]
    killed: tuple[tuple[int, ...], ...]


def replay(constant: Constant | None, factor: float, limit_bytes: int, seeds: int, recording: Path) -> Result | None:
    """What the builds come to with a constant multiplied; None where they fail with an error.

    Each in a process of its own: a value is copied into other modules, and into defaults, as these are imported.
    """
    where = f"{constant.module}:{constant.name}" if constant else ""
    words = [where, str(factor), str(limit_bytes), str(seeds), str(recording)]
    done = subprocess.run([sys.executable, "-m", "bench.constants", *words], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    return Result(*(tuple(tuple(row) for row in found[key]) for key in ("wall_s", "killed")))


def vary(
    constants: Sequence[Constant], limit_bytes: int, seeds: int, recording: Path
) -> Iterator[tuple[Constant | None, float, Result | None]]:
    """The builds as they are (no constant), then with each constant at half and double, as many at once as CPUs."""
    tasks: list[tuple[Constant | None, float]] = [(None, 1.0)]
    tasks += [(constant, factor) for constant in constants for factor in FACTORS]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda task: replay(*task, limit_bytes, seeds, recording), tasks)
        yield from ((*task, result) for task, result in zip(tasks, results))


def _import_varied(where: str, factor: float) -> None:
    """Import a module with one of its constants multiplied. Whoever imports it later has that value."""
    module, _, name = where.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec
    assert spec.origin
    source = Path(spec.origin).read_text(encoding="utf-8")
    varied, count = re.subn(rf"^{name} = (.+)$", rf"{name} = _varied(\1)", source, flags=re.MULTILINE)
    assert count == 1, f"{where} is set {count} times"
    made = importlib.util.module_from_spec(spec)
    vars(made)["_varied"] = lambda value: type(value)(value * factor)
    sys.modules[module] = made
    exec(compile(varied, spec.origin, "exec"), vars(made))


def main(arguments: list[str]) -> int:
    """One value of one constant, in a process of its own; writes a Result as JSON."""
    where, factor, limit_bytes, seeds, file = arguments
    if where:
        _import_varied(where, float(factor))
    from .recording import read_recording
    from .replay import replay_all

    recording = read_recording(Path(file))
    found = [replay_all(recording, int(limit_bytes), BUILT, seed) for seed in range(int(seeds))]
    wall_s = [[build.wall_s if build.has_built else None for build in builds.values()] for builds in found]
    killed = [[build.killed for build in builds.values()] for builds in found]
    json.dump({"wall_s": wall_s, "killed": killed}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
