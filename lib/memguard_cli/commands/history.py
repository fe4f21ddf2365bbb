# SPDX-License-Identifier: MIT
"""`memguard history`: what earlier builds took, shown, taken out, put in, put together and cut down.

Runs in: outside BitBake.
Covers: arguments, and how many samples were taken.
Does not cover: the file (builds/history_file, memguard.record.history), samples in and out (builds/samples_file), lives
of jobs (builds/lives_lines), the screen (screens/history).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from memguard.record.history.samples import BadSample
from memguard.record.history.schema import UnusableHistory
from memguard.record.history.store import Counts
from memguard.units import format_bytes
from memguard_cli.builds import history_file
from memguard_cli.builds.lives_lines import format_lives, sound_lives, take_lives
from memguard_cli.builds.samples_file import Imported, import_from, write_lines
from memguard_cli.commands.group import Group
from memguard_cli.commands.history_fleet import pull, push
from memguard_cli.commands.options import history_option
from memguard_cli.errors import UserError
from memguard_cli.screens.history import describe, is_named, show_history, tell_lives
from memguard_cli.screens.text import count, printable


class HistoryGroup(Group):
    """Subcommands, with a hint for who names a recipe where one of them is due."""

    hint = "for a recipe, memguard history show {word}"


@click.group(cls=HistoryGroup, invoke_without_command=True)
@history_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def history(context: click.Context, file: str | None, as_json: bool) -> int:
    """Show and manage what tasks took in earlier builds; alone, the same as `show`.

    \b
    Example:
      memguard history show "llvm*"
    """
    if context.invoked_subcommand is None:
        show_history(history_file.find(file), (), as_json)
        return 0
    if as_json and context.invoked_subcommand != "show":
        raise UserError(f"--json is for show, not for {context.invoked_subcommand}")
    context.obj = (file, as_json)
    return 0


history.add_command(pull)
history.add_command(push)


@history.command()
@history_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, with all tasks.")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.pass_obj
def show(given: tuple[str | None, bool], file: str | None, as_json: bool, recipes: tuple[str, ...]) -> int:
    """Show what each task took, the heaviest first.

    RECIPE is a name, or a shell pattern such as 'llvm*'; no pattern shows the heaviest tasks of all.

    \b
    Example:
      memguard history show "llvm*"
    """
    path = history_file.find(given[0] if file is None else file)
    show_history(path, recipes, as_json or given[1])
    return 0


@history.command()
@history_option
@click.option("-o", "--output", metavar="FILE", help="Write there instead of to standard output.")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.pass_obj
def export(given: tuple[str | None, bool], file: str | None, output: str | None, recipes: tuple[str, ...]) -> int:
    """Write the samples, and then what single jobs took, as lines of JSON, which `import` takes.

    RECIPE is a name, or a shell pattern such as 'llvm*'.

    \b
    Example:
      memguard history export -o samples.jsonl
    """
    path = history_file.find(given[0] if file is None else file)
    with history_file.opened_to_read(path) as source:
        lines = itertools.chain(source.export(), map(format_lives, source.all_lives()))
        named = (line for line in lines if is_named(line["pn"], recipes))
        write_lines(named, "-" if output is None else output, source)
    return 0


@history.command("import")
@history_option
@click.argument("sources", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.pass_obj
def import_(given: tuple[str | None, bool], file: str | None, sources: tuple[str, ...]) -> int:
    """Take in samples: lines of JSON as `export` writes them (- reads standard input), or buildstats.

    Buildstats are directories, or a buildstats.json as in the git notes of the Yocto Project's yocto-buildstats.
    What is there already is not taken twice. Invalid lines are reported on standard error and skipped.

    \b
    Example:
      memguard history import tmp/buildstats
      git notes --ref=buildstats/BRANCH/MACHINE show COMMIT | memguard history import -

    Exit status: 0, 2 where there is nothing but invalid lines.
    """
    path = history_file.find(given[0] if file is None else file)
    for source in sources:
        if source != "-" and not history_file.is_there(Path(source)):
            raise UserError(f"{source} does not exist; samples are in tmp/buildstats, or in a file of `export`")
    imported = Imported()
    with history_file.opened_to_write(path, history_file.find_max_bytes(None)) as target:
        for source in sources:
            imported += import_from(target, source, _complain)
            if target.failure is not None:
                break
        total = imported.samples
        click.echo(f"{total.added:,} added, {total.known:,} known, {total.bad:,} bad{tell_lives(imported.new_lives)}")
    if imported.is_nothing_but_bad:
        named = ", ".join("standard input" if source == "-" else source for source in sources)
        raise UserError(f"{named}: no line is a sample; samples are in tmp/buildstats, or in a file of `export`")
    click.echo(describe(target))
    return 0


@history.command()
@history_option
@click.argument("others", nargs=-1, required=True, metavar="FILE...")
@click.pass_obj
def merge(given: tuple[str | None, bool], file: str | None, others: tuple[str, ...]) -> int:
    """Take over what other histories know, which stay as they are: all samples, and what single jobs took.

    Invalid samples are reported on standard error and skipped.

    \b
    Example:
      memguard history merge /cache/other/history.db
    """
    path = history_file.find(given[0] if file is None else file)
    for other in others:
        if not history_file.is_there(Path(other)):
            raise UserError(f"{other} does not exist", "another build's memguard/history.db")
    total, lives = Counts(), 0
    with history_file.opened_to_write(path, history_file.find_max_bytes(None)) as target:
        for other in others:
            try:
                bad: list[BadSample] = []
                total += target.merge(Path(other), bad.append)
                with history_file.opened_to_read(Path(other)) as source:
                    lives += take_lives(target, sound_lives(source.all_lives(), bad.append))
                for found in bad:
                    _complain(f"{other}: {found}")
            except UnusableHistory as error:
                raise UserError(f"{error}; lines of JSON are for memguard history import") from None
            if target.failure is not None:
                break
        bad_too = f", {total.bad:,} bad" if total.bad else ""
        click.echo(f"{total.added:,} added, {total.known:,} known{bad_too}{tell_lives(lives)}")
    click.echo(describe(target))
    return 0


@history.command()
@history_option
@click.option(
    "--max",
    "most",
    metavar="SIZE",
    help="The file's largest size, such as 16M; else MEMGUARD_HISTORY_MAX, or 64M.",
)
@click.pass_obj
def prune(given: tuple[str | None, bool], file: str | None, most: str | None) -> int:
    """Forget the oldest samples of the best-known tasks until the file fits.

    \b
    Example:
      memguard history prune --max 16M
    """
    max_bytes = history_file.find_max_bytes(most)
    path = history_file.find(given[0] if file is None else file)
    history_file.require(path)
    with history_file.opened_to_write(path, max_bytes) as target:
        before = target.size_bytes()
        forgotten = target.prune(max_bytes)
        history_file.check(target)
        click.echo(f"{count(forgotten, 'sample')} forgotten, {format_bytes(before)} before")
    click.echo(describe(target))
    return 0


def _complain(text: str) -> None:
    click.echo(f"memguard: {printable(text)}", err=True)
