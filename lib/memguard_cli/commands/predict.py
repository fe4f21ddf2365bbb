# SPDX-License-Identifier: MIT
"""`memguard predict`: what a task will take, and why a build would think so.

Runs in: outside BitBake.
Covers: arguments.
Does not cover: the prediction (advice/prediction), words (screens/prediction).
"""

from __future__ import annotations

import json

import click

from memguard.predict.fit import MOST_JOBS
from memguard_cli.advice.prediction import Question, predict_tasks
from memguard_cli.builds import configuration, history_file
from memguard_cli.commands.options import history_option
from memguard_cli.errors import UserError
from memguard_cli.screens.prediction import as_data, show_prediction


@click.command()
@click.argument("target", metavar="PN[:TASK]")
@click.option("--jobs", "-j", type=click.IntRange(1, MOST_JOBS), metavar="N", help="Predict the peak with N jobs.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="A class the recipe inherits, such as cmake; can be repeated.",
)
@click.option("--version", metavar="PV", help="The version to be built; else the newest in the history.")
@click.option("--all-tasks", is_flag=True, help="Show do_compile and every task in the history.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead; with --all-tasks a list of them.")
@history_option
def predict(
    target: str,
    jobs: int | None,
    classes: tuple[str, ...],
    version: str | None,
    all_tasks: bool,
    as_json: bool,
    file: str | None,
) -> int:
    """Predict how much memory a task will take, and what that rests on.

    TASK is do_compile where it is left out. In a build directory MEMGUARD_FOOTPRINT:pn-PN of its configuration
    counts as in a build. Recipes are not parsed: --class says what PN inherits, which matters while it is unknown.

    \b
    Example:
      memguard predict llvm-native:do_compile --jobs 8
    """
    recipe, task = parse_target(target)
    if all_tasks and task is not None:
        raise UserError(f"--all-tasks is for a recipe; {target} names a task. A good one is {recipe} --all-tasks")
    path = history_file.find(file)
    names = frozenset(name.rpartition("/")[2].partition(".")[0] for name in classes)
    predictions = predict_tasks(Question(recipe, task, version, names, jobs), path, configuration.find())
    if as_json:
        found = [as_data(prediction) for prediction in predictions]
        print(json.dumps(found if all_tasks else found[0], indent=2))
    else:
        show_prediction(predictions, path, all_tasks)
    return 0


def parse_target(text: str) -> tuple[str, str | None]:
    """Recipe and task of PN[:TASK], as bitbake writes them; "compile" is do_compile. Raises UserError."""
    recipe, colon, task = text.partition(":")
    is_name = all(name and name.isprintable() and not set(name) & set(" /:") for name in (recipe, task or "any"))
    if not is_name or (colon and not task):
        raise UserError(f"{text!r} is neither a recipe nor RECIPE:TASK", "llvm-native:do_compile")
    return recipe, (task if task.startswith("do_") else f"do_{task}") if task else None
