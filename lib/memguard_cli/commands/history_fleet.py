# SPDX-License-Identifier: MIT
"""`memguard history pull` and `memguard history push`: a build's history from and to that of the fleet.

Runs in: outside BitBake, before and after a build; a build whose MEMGUARD_HISTORY is a database starts both itself.
Covers: arguments, where the URL comes from, how long the database may be silent.
Does not cover: the database (fleet/database), the file (builds/history_file).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import click

from memguard.record.history.samples import TaskLives
from memguard.settings import is_database
from memguard_cli.builds import configuration, history_file
from memguard_cli.builds.lives_lines import join, sound_lives, take_lives
from memguard_cli.commands.options import history_option
from memguard_cli.errors import UserError
from memguard_cli.fleet.database import DEFAULT_MAX_SAMPLES, EXAMPLE, LEAST_MAX_SAMPLES, FleetDatabase, Sent, builds_in
from memguard_cli.fleet.patience import SilenceError, run_with_patience
from memguard_cli.screens.history import tell_lives
from memguard_cli.screens.text import count, printable

T = TypeVar("T")

_timeout = click.option(
    "--timeout",
    "silence_s",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the database may be silent.",
)


@click.command()
@history_option
@_timeout
@click.argument("url", required=False)
@click.pass_obj
def pull(given: tuple[str | None, bool], file: str | None, silence_s: float, url: str | None) -> int:
    """Take over what the fleet's database knows and this build's history does not.

    That is the newest samples of each task, its kind, and what its single jobs took in their last build.

    \b
    Example:
      memguard history pull postgresql://memguard@db.example/memguard

    URL is MEMGUARD_HISTORY of the environment or of conf/local.conf where it is not given. The password is better
    left out of it: PGPASSWORD, PGPASSFILE and ~/.pgpass are read, too.
    """
    database_url = _find_url(url)
    path = history_file.find(given[0] if file is None else file)

    def work(database: FleetDatabase) -> tuple[int, int, int, int]:
        known, known_lives = set[str](), list[TaskLives]()
        if history_file.is_there(path):
            with history_file.opened_to_read(path) as source:
                known.update(builds_in(source.export()))
                known_lives = source.all_lives()
        samples = database.pull(known)
        bad: list[object] = []
        new_lives = sound_lives(database.pull_lives(known_lives), bad.append)
        with history_file.opened_to_write(path, history_file.find_max_bytes(None)) as target:
            counts = target.import_samples(samples, on_bad=bad.append)
            lives = take_lives(target, new_lives)
        return counts.added, counts.known, len(bad), lives

    name, (added, already, bad, lives) = _talk(database_url, silence_s, work)
    click.echo(f"{added:,} added, {already:,} known, {bad:,} bad{tell_lives(lives)}, from {printable(name)}")
    return 0


@click.command()
@history_option
@_timeout
@click.option(
    "--max-samples",
    type=click.IntRange(min=LEAST_MAX_SAMPLES),
    default=DEFAULT_MAX_SAMPLES,
    show_default=True,
    metavar="N",
    help="Samples the database may hold; the oldest of the best-known tasks are forgotten first.",
)
@click.argument("url", required=False)
@click.pass_obj
def push(given: tuple[str | None, bool], file: str | None, silence_s: float, max_samples: int, url: str | None) -> int:
    """Send what this build's history knows to the fleet's database, which is set up if it is empty.

    \b
    Example:
      memguard history push postgresql://memguard@db.example/memguard

    URL and password as for pull. What was sent already is not sent again, so it can be repeated at any time.
    """
    database_url = _find_url(url)
    path = history_file.find(given[0] if file is None else file)
    history_file.require(path)

    def work(database: FleetDatabase) -> tuple[Sent, int]:
        with history_file.opened_to_read(path) as source:
            sent = database.push(source.export(), max_samples)
            lives = sound_lives(source.all_lives(), on_bad=lambda bad: None)
            return sent, database.push_lives(lives, join, max_samples)

    name, (sent, lives) = _talk(database_url, silence_s, work)
    forgotten = f", {count(sent.forgotten, 'old sample')} forgotten" if sent.forgotten else ""
    click.echo(f"{sent.added:,} added, {sent.known:,} known{forgotten}{tell_lives(lives)}, to {printable(name)}")
    return 0


def _talk(url: str, silence_s: float, work: Callable[[FleetDatabase], T]) -> tuple[str, T]:
    """What `work` makes of the database, and its name. Raises UserError, also for a database that says nothing."""
    name = FleetDatabase(url).name
    try:
        # The driver waits no less than two seconds, and for each address of a host anew.
        return name, run_with_patience(
            lambda alive: work(FleetDatabase(url, alive, connect_s=max(2, int(silence_s)))), silence_s
        )
    except SilenceError:
        raise UserError(f"{name} has said nothing for {silence_s:g} s (--timeout)") from None


def _find_url(given: str | None) -> str:
    """The URL that `given` says, else MEMGUARD_HISTORY where it is one. Raises UserError."""
    if given is not None:
        return given
    named = os.environ.get("MEMGUARD_HISTORY", "").strip()
    build = configuration.find()
    if not named and build is not None:
        named = build.expand("MEMGUARD_HISTORY") or ""
    if not is_database(named):
        raise UserError("neither URL nor MEMGUARD_HISTORY names a database", EXAMPLE)
    return named
