# SPDX-License-Identifier: MIT
"""What all commands have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from memguard_cli.main import memguard


def commands(command: click.Command = memguard, name: str = "") -> Iterator[str]:
    """The words by which each command is called."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            yield f"{name} {word}".strip()
            if one := command.get_command(context, word):
                yield from commands(one, f"{name} {word}".strip())


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_shows_an_example(words: str) -> None:
    """--help says what it does and shows a call that works."""
    told = CliRunner().invoke(memguard, [*words.split(), "--help"])
    assert told.exit_code == 0
    assert "Example" in told.output
    assert f"memguard {words.split()[0]}" in told.output.split("Example")[1]


def test_no_command_waits_for_what_others_need() -> None:
    """`memguard run` starts without templates, arrays and databases: each command is imported when it is called."""
    program = (
        "import sys; from memguard_cli.main import main; main(['run', '--', 'true']); "
        "sys.exit(str([name for name in ('numpy', 'jinja2', 'yaml', 'sqlite3') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
