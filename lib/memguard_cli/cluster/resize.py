# SPDX-License-Identifier: MIT
"""Asks for another size of the container, and waits for the kubelet's answer.

Runs in: outside BitBake.
Covers: when to ask and when an earlier request is enough, how long to wait, taking back what the node can never give.
Does not cover: how large (pod), the connection (account).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from memguard_cli.cluster.pod import Answer, Quantity, Size, State, answer_of, patch

_LOOK_S = 0.5


class Cluster(Protocol):
    """Whoever can read the pod and ask for another size of it."""

    def read(self) -> Mapping[str, Any]: ...

    def resize(self, patch: Mapping[str, Any]) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Outcome:
    """The kubelet's answer, and after how many seconds it came."""

    answer: Answer
    after_s: float


def resize(
    cluster: Cluster,
    size: Size,
    target_bytes: int,
    patience_s: float,
    quantity: Quantity,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Have a container resized; what came of it within `patience_s` seconds.

    What is deferred stays asked for, since the kubelet gives it when the node has room. What is infeasible is taken
    back, so that the pod says again what it has. What the account raises passes through.
    """
    started_s = clock()
    # Another call may have asked for it.
    pod = cluster.read() if size.wanted_bytes == target_bytes else cluster.resize(patch(size, target_bytes))
    while True:
        answer = answer_of(pod, size.container, target_bytes, quantity)
        after_s = clock() - started_s
        if answer.state is State.INFEASIBLE:
            cluster.resize(patch(_asked(size, target_bytes), size.limit_bytes))
        if answer.state in (State.DONE, State.INFEASIBLE) or after_s >= patience_s:
            return Outcome(answer, after_s)
        sleep(min(_LOOK_S, max(0.0, patience_s - after_s)))
        pod = cluster.read()


def _asked(size: Size, target_bytes: int) -> Size:
    """The container once a size was asked for."""
    request = target_bytes if size.request_bytes == size.wanted_bytes else size.request_bytes
    return Size(size.container, size.limit_bytes, target_bytes, request)
