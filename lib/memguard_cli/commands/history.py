# SPDX-License-Identifier: MIT
"""`memguard history`: what earlier builds took, shown, taken out, put in, put together and cut down.

Runs in: outside BitBake.
Covers: reading lines of JSON with the place of each that is none; runs summed up by task; the screens.
Does not cover: the file itself (memguard.history), files of buildstats (buildstats).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import click

from memguard.record.history.samples import BadSample, parse_sample
from memguard.record.history.schema import UnusableHistory
from memguard.record.history.store import Counts, History
from memguard.units import KIB, format_bytes
from memguard_cli.builds import history_file
from memguard_cli.builds.buildstats import NoBuildstats, import_buildstats
from memguard_cli.commands.history_fleet import pull, push
from memguard_cli.screens.history import history_data, history_table, summarise
from memguard_cli.screens.text import count, make_console, plain, printable

# Of a whole build's thousands of tasks a screen shows those that matter.
SHOWN_TASKS = 40

# Nobody reads more on a screen, and rich takes a millisecond for each.
MOST_SHOWN_TASKS = 1000

# A sample has names of 500 characters at most, six of them.
LONGEST_LINE_BYTES = 64 * KIB


class HistoryGroup(click.Group):
    """Subcommands, with a hint for who names a recipe where one of them is due."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{args[0]!r} is none of {known}; for a recipe, memguard history show {args[0]}")
        return super().resolve_command(ctx, args)


@click.group(cls=HistoryGroup, invoke_without_command=True)
@history_file.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def history(context: click.Context, file: str | None, as_json: bool) -> int:
    """What the tasks of earlier builds took; alone, as `show`.

    \b
    Example:
      memguard history show "llvm*"
    """
    if context.invoked_subcommand is None:
        return _show((), file, as_json)
    if as_json and context.invoked_subcommand != "show":
        raise click.UsageError(f"--json is for show, not for {context.invoked_subcommand}")
    context.obj = (file, as_json)
    return 0


history.add_command(pull)
history.add_command(push)


@history.command()
@history_file.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, with all tasks.")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.pass_obj
def show(given: tuple[str | None, bool], file: str | None, as_json: bool, recipes: tuple[str, ...]) -> int:
    """Show what each task took, the heaviest first.

    RECIPE is a name, or a shell pattern as 'llvm*'; no pattern shows the heaviest tasks of all.

    \b
    Example:
      memguard history show "llvm*"
    """
    return _show(recipes, given[0] if file is None else file, as_json or given[1])


@history.command()
@history_file.option
@click.option("-o", "--output", metavar="FILE", help="Write there instead of to standard output.")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.pass_obj
def export(given: tuple[str | None, bool], file: str | None, output: str | None, recipes: tuple[str, ...]) -> int:
    """Write the samples as lines of JSON, which `import` takes.

    RECIPE is a name, or a shell pattern as 'llvm*'.

    \b
    Example:
      memguard history export -o samples.jsonl
    """
    path = history_file.find(given[0] if file is None else file)
    with history_file.opened_to_read(path) as source:
        samples = (sample for sample in source.export() if _is_asked_for(sample["pn"], recipes))
        lines = (json.dumps(sample) + "\n" for sample in samples)
        if output is None or output == "-":
            for line in lines:
                sys.stdout.write(line)
        else:
            _write_whole(Path(output), lines, source)
    return 0


@history.command("import")
@history_file.option
@click.argument("sources", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.pass_obj
def import_(given: tuple[str | None, bool], file: str | None, sources: tuple[str, ...]) -> int:
    """Take in samples: lines of JSON as `export` writes them (- reads standard input), or directories of buildstats.

    What is there already is not taken twice. What is no sample is named on standard error and passed over.

    \b
    Example:
      memguard history import tmp/buildstats
    """
    path = history_file.find(given[0] if file is None else file)
    for source in sources:
        if source != "-" and not history_file.is_there(Path(source)):
            raise click.UsageError(f"{source} does not exist; samples are in tmp/buildstats, or in a file of `export`")
    total = Counts()
    with history_file.opened_to_write(path, history_file.find_max_bytes(None)) as target:
        for source in sources:
            total += _import(target, source)
            if target.failure is not None:
                break
        click.echo(f"{total.added:,} added, {total.known:,} known, {total.bad:,} bad")
    click.echo(history_file.describe(target))
    return 0


@history.command()
@history_file.option
@click.argument("others", nargs=-1, required=True, metavar="FILE...")
@click.pass_obj
def merge(given: tuple[str | None, bool], file: str | None, others: tuple[str, ...]) -> int:
    """Take over all samples of other histories, which stay as they are.

    \b
    Example:
      memguard history merge /cache/other/history.db
    """
    path = history_file.find(given[0] if file is None else file)
    for other in others:
        if not history_file.is_there(Path(other)):
            raise click.UsageError(
                f"{other} does not exist; a good one is another build's memguard/{history_file.NAME}"
            )
    total = Counts()
    with history_file.opened_to_write(path, history_file.find_max_bytes(None)) as target:
        for other in others:
            try:
                total += target.merge(Path(other))
            except UnusableHistory as error:
                raise click.UsageError(f"{error}; lines of JSON are for memguard history import") from None
            if target.failure is not None:
                break
        click.echo(f"{total.added:,} added, {total.known:,} known")
    click.echo(history_file.describe(target))
    return 0


@history.command()
@history_file.option
@click.option(
    "--max", "most", metavar="SIZE", help="Bytes the file may have, as 16M; else MEMGUARD_HISTORY_MAX, or 64M."
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
    click.echo(history_file.describe(target))
    return 0


# -- show --------------------------------------------------------------------------------------------------------------


def _show(recipes: tuple[str, ...], file: str | None, as_json: bool) -> int:
    builds: set[str] = set()
    samples: list[dict[str, Any]] = []
    known = 0
    with history_file.opened_to_read(history_file.find(file)) as source:
        for sample in source.export():
            known += 1
            builds.add(sample["build"])
            if _is_asked_for(sample["pn"], recipes):
                samples.append(sample)
        history_file.check(source)
    tasks = summarise(samples)
    if as_json:
        print(json.dumps(history_data(source, known, len(builds), tasks), indent=2))
        return 0
    console = make_console()
    shown = tasks[: MOST_SHOWN_TASKS if recipes else SHOWN_TASKS]
    if shown:
        console.print(history_table(shown))
    if len(shown) < len(tasks):
        more = "--json tells of all" if recipes else "memguard history show '*'"
        console.print(plain(f"and {len(tasks) - len(shown):,} lighter tasks: {more}", "dim"))
    if recipes and not tasks:
        console.print(plain(f"no recipe here is called {' or '.join(recipes)}"))
    ends = f"{history_file.describe(source)}, {count(known, 'sample')} of {count(len(builds), 'build')}"
    console.print(plain(ends), soft_wrap=True)  # the name of the file stays in one piece
    return 0


def _is_asked_for(recipe: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(recipe, pattern) for pattern in patterns)


# -- in and out --------------------------------------------------------------------------------------------------------


def _write_whole(path: Path, lines: Iterable[str], source: History) -> None:
    """Write `path` whole or not at all."""
    if path.exists() and source.path.exists() and path.samefile(source.path):
        raise click.UsageError(f"{path} is the history itself; a good one is -o samples.jsonl")
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe
            with open(path, "w", encoding="utf-8") as output:
                output.writelines(lines)
            return
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
        try:
            with open(descriptor, "w", encoding="utf-8") as output:
                output.writelines(lines)
                history_file.check(source)
            Path(name).chmod(0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _import(target: History, source: str) -> Counts:
    """Take in what one argument names; says what is wrong with it."""
    path = Path(source)
    complaints = Counter[str]()

    def complain(text: str) -> None:
        complaints["bad"] += 1
        click.echo(f"memguard: {printable(text)}", err=True)

    try:
        if source != "-" and path.is_dir():
            counts = import_buildstats(target, path, complain)
        else:
            with _opened(source) as lines:
                counts = target.import_samples(
                    read_lines(lines, "standard input" if source == "-" else source, complain)
                )
    except NoBuildstats as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read: {error.strerror}") from None
    return Counts(counts.added, counts.known, complaints["bad"])


@contextlib.contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        yield file


def read_lines(lines: IO[bytes], name: str, complain: Any) -> Iterator[dict[str, Any]]:
    """The samples in lines of JSON. `complain` takes a sentence, with `name` and the line's number, for each other."""
    number = 0
    while line := lines.readline(LONGEST_LINE_BYTES):
        number += 1
        if number == 1:
            if line.startswith(b"SQLite format 3\0"):
                raise click.UsageError(f"{name} is a database; memguard history merge {name} takes it in")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := lines.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            complain(f"{name}:{number}: a line of more than {format_bytes(LONGEST_LINE_BYTES)} is no sample")
        elif line.strip():
            try:
                sample = json.loads(line)
                parse_sample(sample)
            except BadSample as error:
                complain(f"{name}:{number}: {error}")
            except (ValueError, RecursionError):  # also for text that is not UTF-8, and for numbers without end
                complain(f"{name}:{number}: is no JSON")
            else:
                yield sample
