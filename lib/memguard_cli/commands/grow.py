# SPDX-License-Identifier: MIT
"""`memguard grow`: more memory for the container that a build runs in, in Kubernetes, or less.

Runs in: outside BitBake, within the pod: typed, or as MEMGUARD_PRESSURE_CMD.
Covers: arguments, annotations, and the one line about what came of it.
Does not cover: asking and waiting (cluster/).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from memguard.sense.container import Sensor
from memguard.units import format_bytes, parse_bytes
from memguard_cli.cluster import pod as pods
from memguard_cli.cluster.account import ACCOUNT, Account, Refused, parse_quantity
from memguard_cli.cluster.resize import resize
from memguard_cli.errors import UserError

# Of what the container has.
_STEP_SHARE = 0.25
_PATIENCE_S = 60.0
_REFUSED = 3
_WANTED = "MEMGUARD_WANTED_BYTES"

_WORDS = {
    pods.State.WAITING: "the kubelet has not done it yet",
    pods.State.DEFERRED: "deferred until the node has room",
    pods.State.INFEASIBLE: "infeasible on this node, and taken back",
    pods.State.FAILING: "the kubelet fails at it and tries again",
}


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """The bytes that an option means; None where it is not given."""
    try:
        return None if text is None else parse_bytes(text)
    except ValueError:
        raise UserError(f"--{option.name} {text}: no size", "4G") from None


def _size_option(name: str, words: str, variable: str | None = None) -> Callable[[Any], Any]:
    return click.option(name, metavar="SIZE", callback=_size, envvar=variable, help=words)


@click.command()
@_size_option("--wanted", f"How much more is wanted; else {_WANTED}; else one step.", _WANTED)
@_size_option("--most", f"Never ask for more; else the pod's annotation {pods.MOST}.")
@_size_option("--step", f"Ask in steps of this; else annotation {pods.STEP}; else a quarter of what it has.")
@click.option("--give-back", is_flag=True, help="Resize down to --least, or to what is used and a step.")
@_size_option("--least", f"What --give-back leaves; else the pod's annotation {pods.LEAST}.")
@click.option("--container", help=f"The container; else annotation {pods.CONTAINER}, or the only one.")
@click.option("--pod", help="The pod's name; else the name of this host.")
@click.option("--wait", type=float, default=_PATIENCE_S, show_default=True, metavar="S", help="Wait so many seconds.")
@click.option("--account", type=click.Path(path_type=Path), default=ACCOUNT, help="The service account's directory.")
def grow(
    wanted: int | None,
    most: int | None,
    step: int | None,
    give_back: bool,
    least: int | None,
    container: str | None,
    pod: str | None,
    wait: float,
    account: Path,
) -> int:
    """Ask Kubernetes for more memory for this container, while it runs, and wait for the answer.

    Use it as MEMGUARD_PRESSURE_CMD, or type it in the pod. It needs Kubernetes 1.33, a service account with the role of
    conf/kubernetes/grow-role.yml, and a maximum: --most, or the pod's annotation memguard/grow-most. Requests that
    equal limits stay equal, so the pod keeps its class.

    Example: memguard grow --most 48G --step 4G

    Exit status: 0 done, or nothing to do; 2 for an error you can fix; 3 the cluster does not give it, or not yet.
    """
    if not 0 <= wait <= 3600:
        raise UserError(f"--wait {wait:g}: not between 0 and 3600 seconds", "60")
    api = Account(account, pod)
    try:
        found = api.read()
        size = pods.size_of(found, pods.container_name(found, container), parse_quantity)
        bounds = pods.bounds_of(found, parse_quantity)
        step_bytes = step or bounds.step_bytes or max(1, int(size.limit_bytes * _STEP_SHARE))
        if give_back:
            target = _less(size, least or bounds.least_bytes, step_bytes)
        else:
            target = _more(size, wanted, most or bounds.most_bytes, step_bytes)
        words = pods.change_words(api.pod_name, size, target)
        if target == size.limit_bytes == size.wanted_bytes:
            click.echo(f"{words}: nothing to do")
            return 0
        outcome = resize(api, size, target, wait, parse_quantity)
    except Refused as refused:
        click.echo(f"memguard: {refused}", err=True)
        return _REFUSED
    if outcome.answer.state is pods.State.DONE:
        click.echo(f"{words}: done in {outcome.after_s:.0f} s")
        return 0
    said = f" ({outcome.answer.message})" if outcome.answer.message else ""
    click.echo(f"memguard: {words}: {_WORDS[outcome.answer.state]}{said}", err=True)
    return _REFUSED


def _more(size: pods.Size, wanted: int | None, most: int | None, step: int) -> int:
    if most is None:
        example = f"--most {2 * size.limit_bytes >> 30 or 1}G"
        raise UserError(f"how far may it grow? Set the pod's annotation {pods.MOST}, or give --most", example)
    return pods.grown_bytes(size.limit_bytes, wanted, step, most)


def _less(size: pods.Size, least: int | None, step: int) -> int:
    if least is None:
        raise UserError(f"how much is to be left? Set the pod's annotation {pods.LEAST}, or give --least", "--least 8G")
    used = Sensor().read().used_bytes
    target = pods.shrunk_bytes(size.limit_bytes, least, used, step)
    if target > least:
        click.echo(f"{format_bytes(used)} are in use, so no less than {format_bytes(target)} are left", err=True)
    return target
