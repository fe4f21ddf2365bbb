# SPDX-License-Identifier: MIT
"""What all commands have in common."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from memguard_cli.main import memguard


def commands(command: click.Command = memguard, name: str = "") -> Iterator[str]:
    """The words by which each command is called."""
    if isinstance(command, click.Group):
        for word, one in command.commands.items():
            yield f"{name} {word}".strip()
            yield from commands(one, f"{name} {word}".strip())


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_shows_an_example(words: str) -> None:
    """--help says what it does and shows a call that works."""
    told = CliRunner().invoke(memguard, [*words.split(), "--help"])
    assert told.exit_code == 0
    assert "Example" in told.output
    assert f"memguard {words.split()[0]}" in told.output.split("Example")[1]
