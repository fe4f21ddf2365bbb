# SPDX-License-Identifier: MIT
"""A pod as the API server describes it -> its container's size, how far it may change, and what the kubelet says.

Runs in: outside BitBake; pure: JSON objects in, values out.
Covers: spec (what is wanted), status (what is), annotations (how far), and the patch that asks for another size.
Does not cover: asking (resize), quantities in the words of Kubernetes (account.parse_quantity, handed in).

Sizes are in bytes. Pod-level resources are not resized: the container needs a memory limit of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Callable

from memguard.units import GIB, MIB, format_bytes
from memguard_cli.errors import UserError

Quantity = Callable[[str], int]
Pod = Mapping[str, Any]

# Annotations of the pod. The first names the container in every tool of Kubernetes.
CONTAINER = "kubectl.kubernetes.io/default-container"
MOST, STEP, LEAST = "memguard/grow-most", "memguard/grow-step", "memguard/grow-least"


class State(enum.Enum):
    """How far a resize has come."""

    DONE = "done"
    WAITING = "not yet done"
    DEFERRED = "deferred"
    INFEASIBLE = "infeasible"
    FAILING = "failing"


@dataclass(frozen=True)
class Answer:
    """What the kubelet says of a resize. message: in its words, "" for none."""

    state: State
    message: str = ""


@dataclass(frozen=True)
class Size:
    """One container. limit_bytes: what it has; wanted_bytes: what its spec asks for; request_bytes: of the spec."""

    container: str
    limit_bytes: int
    wanted_bytes: int
    request_bytes: int | None


@dataclass(frozen=True)
class Bounds:
    """How far a container may change, and in which steps; None where nobody has said."""

    most_bytes: int | None = None
    step_bytes: int | None = None
    least_bytes: int | None = None


def container_name(pod: Pod, named: str | None) -> str:
    """The container to resize: the one named, the pod's default, or its only one. Raises UserError."""
    names = [container["name"] for container in pod["spec"]["containers"]]
    wanted = named or notes_on(pod).get(CONTAINER)
    if wanted is None and len(names) == 1:
        return str(names[0])
    if wanted is None:
        raise UserError(f"name one of the pod's containers {', '.join(names)}", f"--container {names[0]}")
    if wanted not in names:
        raise UserError(f"the pod has no container {wanted}, only {', '.join(names)}")
    return wanted


def notes_on(pod: Pod) -> Mapping[str, str]:
    """The annotations of a pod."""
    return (pod.get("metadata") or {}).get("annotations") or {}


def size_of(pod: Pod, container: str, quantity: Quantity) -> Size:
    """What a container has and what it is to have. Raises UserError where it has no memory limit."""
    resources = _named(pod["spec"]["containers"], container).get("resources") or {}
    wanted = (resources.get("limits") or {}).get("memory")
    if wanted is None:
        raise UserError(f"container {container} has no memory limit of its own, so there is nothing to resize")
    actual = _actual(pod, container).get("limits", {}).get("memory", wanted)
    request = (resources.get("requests") or {}).get("memory")
    return Size(container, quantity(actual), quantity(wanted), None if request is None else quantity(request))


def bounds_of(pod: Pod, quantity: Quantity) -> Bounds:
    """What the annotations say. Raises UserError for what is no size."""
    found: list[int | None] = []
    for name in (MOST, STEP, LEAST):
        text = notes_on(pod).get(name)
        try:
            size = None if text is None else quantity(text)
        except ValueError:
            size = 0
        if size is not None and size <= 0:
            raise UserError(f"the pod's annotation {name} is {text!r}, which is not a size", f'{name}: "32Gi"')
        found.append(size)
    return Bounds(*found)


def grown_bytes(limit_bytes: int, wanted_bytes: int | None, step_bytes: int, most_bytes: int) -> int:
    """The size to ask for: as many steps as hold what is wanted, one where nobody says how much; never beyond the most.

    What is there already is never taken away.
    """
    steps = 1 if wanted_bytes is None else max(0, ceil(wanted_bytes / step_bytes))
    return max(limit_bytes, min(limit_bytes + steps * step_bytes, most_bytes))


def shrunk_bytes(limit_bytes: int, least_bytes: int, used_bytes: int, step_bytes: int) -> int:
    """The size to give back to: the least, or as many steps more as hold what is used with a step to spare."""
    steps = max(0, ceil((used_bytes + step_bytes - least_bytes) / step_bytes))
    return min(limit_bytes, least_bytes + steps * step_bytes)


def patch(size: Size, target_bytes: int) -> dict[str, Any]:
    """The strategic merge patch that asks for a size. Where requests equal limits they stay equal, so that the pod
    keeps its class; a request that is smaller stays as it is."""
    target = quantity_of(target_bytes)
    resources = {"limits": {"memory": target}}
    if size.request_bytes == size.wanted_bytes:
        resources["requests"] = {"memory": target}
    return {"spec": {"containers": [{"name": size.container, "resources": resources}]}}


def quantity_of(size_bytes: int) -> str:
    """Bytes as Kubernetes writes them: "24Gi", "1536Mi"."""
    for unit, suffix in ((GIB, "Gi"), (MIB, "Mi")):
        if size_bytes % unit == 0:
            return f"{size_bytes // unit}{suffix}"
    return str(size_bytes)


def answer_of(pod: Pod, container: str, target_bytes: int, quantity: Quantity) -> Answer:
    """What the kubelet says of the resize to a size, by conditions and by what the container has.

    A condition of an earlier generation of the pod is about another resize.
    """
    generation = pod["metadata"].get("generation", 0)
    conditions = {
        condition["type"]: condition
        for condition in (pod.get("status") or {}).get("conditions") or ()
        if condition.get("status") == "True" and condition.get("observedGeneration", generation) >= generation
    }
    pending, running = conditions.get("PodResizePending"), conditions.get("PodResizeInProgress")
    if pending is not None:
        state = State.INFEASIBLE if pending.get("reason") == "Infeasible" else State.DEFERRED
        return Answer(state, pending.get("message") or "")
    if running is not None:
        is_failing = running.get("reason") == "Error"
        return Answer(State.FAILING if is_failing else State.WAITING, running.get("message") or "")
    actual = _actual(pod, container).get("limits", {}).get("memory")
    is_there = actual is not None and quantity(actual) == target_bytes
    return Answer(State.DONE if is_there else State.WAITING)


def change_words(pod_name: str, size: Size, target_bytes: int) -> str:
    """A resize, for people."""
    return f"{pod_name} {size.container}: {format_bytes(size.limit_bytes)} to {format_bytes(target_bytes)}"


def _actual(pod: Pod, container: str) -> Mapping[str, Any]:
    """The resources that a container has now, as the kubelet says."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((status.get("resources") or {} for status in statuses if status["name"] == container), {})


def _named(containers: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(container for container in containers if container["name"] == name)
