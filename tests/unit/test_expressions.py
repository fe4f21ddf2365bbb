# SPDX-License-Identifier: MIT
"""Expressions of configuration files: worth what Python makes of them, and harmless whatever they say."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.units import GIB
from memguard_cli.builds.expressions import Machine, evaluate
from memguard_cli.builds.operators import CannotTell, Mistake

MACHINE = Machine(cpus=6, online=10, memory_bytes=32 * GIB)


def value(code: str) -> object:
    """What it comes to where X is 3 and nothing else is set."""
    return evaluate(code, {"X": "3"}.get, MACHINE)


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch FILE')",
        "os.system('touch FILE')",
        "open('FILE', 'w')",
        "os.popen('touch FILE').read()",
        "os.environ.get('HOME')",
        "exec('1')",
        "eval('1')",
        "getattr(os, 'sys' + 'tem')('touch FILE')",
        "().__class__.__bases__[0].__subclasses__()",
        "'{0.__class__.__init__.__globals__}'.format(d)",
        "(lambda: os.system('touch FILE'))()",
        "[os.system('touch FILE') for x in (1,)]",
        "os.path.__loader__",
        "d.setVar('X', '4')",
    ],
)
def test_nothing_is_executed(code: str, tmp_path: Path) -> None:
    """What could do something, or reach into Python, is left to BitBake."""
    file = tmp_path / "made"
    with pytest.raises((CannotTell, Mistake)):
        value(code.replace("FILE", str(file)))
    assert not file.exists()


@pytest.mark.parametrize(
    "code",
    [
        "10 ** 10 ** 10",
        "2 ** 999999",
        "1 << 10 ** 12",
        "'x' * 10 ** 9",
        "[0] * 10 ** 9",
        "('x' * 60000).join('y' * 60000)",
        "('x' * 60000).replace('x', 'y' * 60000)",
        "'%999999999d' % 1",
        "'%*d' % (999999999, 1)",
        "('%s' * 30000) % 1",
        "('{0}' * 20000).format('x' * 60000)",
        "'{:>999999999}'.format(1)",
        "f'{1:999999999}'",
        "f'{1:{9 ** 9}}'",
        "(" * 3000 + ")" * 3000,
        "-" * 4000 + "1",
        "1" * 5000,
    ],
)
def test_nothing_takes_long_or_much(code: str) -> None:
    """Numbers, texts and nesting without end are given up at once."""
    with pytest.raises((CannotTell, Mistake)):
        value(code)


@given(st.text(alphabet="0123456789+-*/%()[]{}'\",.:<>=! osdXabcdefn_@\\", max_size=60))
def test_any_text_is_a_value_or_an_answer(code: str) -> None:
    """No text gives another error than the two that are told."""
    with contextlib.suppress(CannotTell, Mistake):
        value(code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("os.cpu_count() - len(os.sched_getaffinity(0))", 4),
        ("bb.utils.cpu_count()", 6),
        ("oe.utils.cpu_count(at_most=4) + oe.utils.cpu_count(7)", 11),
        ("os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2 ** 30", 32),
        ("int(d.getVar('X')) * int(X)", 9),
        ("int(os.popen('nproc').read().strip()) // 2", 3),
        ("os.path.join('/a', 'b')", "/a/b"),
        ("{'a': 1, 'b': 2}['b'] if os.path.isdir('/') else 0", 2),
        ("'-j %d -l %.1f' % (min(8, os.cpu_count()), 2.5)", "-j 8 -l 2.5"),
    ],
)
def test_what_files_ask_for_is_answered(code: str, expected: object) -> None:
    """CPUs, memory and variables are those of the machine that is asked about, not of this one."""
    assert value(code) == expected
