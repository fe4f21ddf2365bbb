# SPDX-License-Identifier: MIT
"""What all commands have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from memguard_cli.commands.doctor import doctor
from memguard_cli.errors import UserError
from memguard_cli.main import main, memguard
from testbed.command import environment


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
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("7 is not a size", "64M"), "memguard: 7 is not a size; a good one is 64M\n"),
        (UserError("x\x1b[2J is no file"), "memguard: x?[2J is no file\n"),
        (click.UsageError("no such option"), "memguard: no such option\n"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever room raises it, it ends with status 2, one line on standard error, and nothing a terminal obeys."""

    def refuse(**words: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "callback", refuse)
    assert main(["doctor"]) == 2
    assert capsys.readouterr() == ("", sentence)


def test_without_a_subcommand_the_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """`memguard` alone shows what there is on standard error and ends with status 2, whatever version click is of."""
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Usage: memguard" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["reprot"], "report"), (["history", "sho"], "show"), (["histroy", "show"], "history"), (["Doctor"], "doctor")],
)
def test_a_mistyped_subcommand_is_met_with_the_likely_one(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and one sentence that names what was meant."""
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f" is not a command; did you mean {meant}?\n")


@pytest.mark.parametrize("words", [(), ("history",)])
def test_the_list_of_commands_has_whole_sentences(words: tuple[str, ...]) -> None:
    """Nothing is cut off, however narrow the terminal is."""
    told = CliRunner().invoke(memguard, [*words, "--help"], env={"COLUMNS": "60"}).output
    listed = told.split("Commands:")[1]
    assert "..." not in listed
    folded = " ".join(listed.split())
    group = memguard if not words else memguard.get_command(click.Context(memguard), words[0])
    assert isinstance(group, click.Group)
    for name in group.list_commands(click.Context(group)):
        assert f" {name} " in f" {folded} "
    assert folded.endswith(".")
