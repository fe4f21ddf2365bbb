# SPDX-License-Identifier: MIT
"""A command with subcommands, as `memguard` and `memguard history` are.

Runs in: outside BitBake.
Covers: the list of subcommands with whole sentences, and what is likely meant by a mistyped one.
Does not cover: the subcommands.
"""

from __future__ import annotations

import difflib

import click

from memguard_cli.errors import UserError


class Group(click.Group):
    """Subcommands. `hint` is a sentence for who types a word that is none of them, with {word} for that word."""

    hint = ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word, known = args[0], self.list_commands(ctx)
        if not word.startswith("-") and word not in known:
            raise UserError(self._refusal(word, known))
        return super().resolve_command(ctx, args)

    def _refusal(self, word: str, known: list[str]) -> str:
        likely = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
        if likely:
            return f"{word!r} is not a command; did you mean {likely[0]}?"
        hint = f"; {self.hint.format(word=word)}" if self.hint else ""
        return f"{word!r} is not one of {', '.join(known)}{hint}"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say of each subcommand what it does: the whole first sentence of its help, folded."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, first_sentence(command.help or "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def first_sentence(text: str) -> str:
    """The first paragraph of a help text, in one line, up to the first full stop that ends a sentence."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".") + "."
