# SPDX-License-Identifier: MIT
"""The `memguard` command: its subcommands, and the one place where it ends.

Runs in: outside BitBake.
Covers: click 8.1 and later, on Python 3.9 and later.
Does not cover: what the subcommands do (commands/).

Exit status: 0; 1 a fault of memguard's own; 2 something the user can mend, said in one sentence; 130 interrupted; what
a subcommand says besides.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from memguard.version import VERSION
from memguard_cli.commands.group import Group
from memguard_cli.errors import UserError
from memguard_cli.screens.text import printable

# Each is in the module of its name, which is imported when it is called: none waits for what others need.
COMMANDS = ("doctor", "explain", "export", "grow", "history", "plan", "predict", "report", "run", "simulate", "top")


class _ReaderLeft(Exception):
    """Whoever read our output has seen enough."""


class _Group(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"memguard_cli.commands.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None  # click would call it a failure


# What click itself does without a subcommand differs between its versions.
@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name="memguard")
@click.pass_context
def memguard(context: click.Context) -> int:
    """Yocto builds that don't run out of memory."""
    if context.invoked_subcommand is not None:
        return 0
    click.echo(context.get_help(), err=True)
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    try:
        status = memguard.main(args=arguments, prog_name="memguard", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, click.ClickException) as refused:
        sentence = refused.format_message() if isinstance(refused, click.ClickException) else str(refused)
        print(f"memguard: {printable(sentence)}", file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (_ReaderLeft, BrokenPipeError):
        _drop_output()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"memguard: the output cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 2
    return status if isinstance(status, int) else 0


def _drop_output() -> None:
    """See that what is left of the output does not fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """The installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
