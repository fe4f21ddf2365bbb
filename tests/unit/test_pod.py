# SPDX-License-Identifier: MIT
"""How large a container is to become, and what the kubelet says of it: JSON in, values out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.units import GIB, MIB, parse_bytes
from memguard_cli.cluster.pod import Answer, Size, State, answer_of, grown_bytes, patch, shrunk_bytes

SIZES = st.integers(1, 1 << 50)


@given(SIZES, st.none() | st.integers(0, 1 << 50), SIZES, SIZES)
def test_it_grows_in_steps_up_to_the_most(limit: int, wanted: int | None, step: int, most: int) -> None:
    """It never shrinks, never passes the most, and holds what is wanted with less than a step to spare."""
    grown = grown_bytes(limit, wanted, step, most)
    assert limit <= grown <= max(limit, most)
    if grown < most:
        assert (grown - limit) % step == 0
        assert 0 <= grown - limit - (step if wanted is None else wanted) < step


@given(SIZES, SIZES, SIZES, SIZES)
def test_what_is_given_back_is_not_used(limit: int, least: int, used: int, step: int) -> None:
    """It never grows, and keeps the least, what is used, and a step, as far as that is there."""
    left = shrunk_bytes(limit, least, used, step)
    assert min(limit, max(least, used + step)) <= left <= limit


@pytest.mark.parametrize(
    ("request_bytes", "resources"),
    [
        (8 * GIB, {"limits": {"memory": "12Gi"}, "requests": {"memory": "12Gi"}}),
        (2 * GIB, {"limits": {"memory": "12Gi"}}),
        (None, {"limits": {"memory": "12Gi"}}),
    ],
)
def test_requests_that_equal_limits_stay_equal(request_bytes: int | None, resources: dict[str, Any]) -> None:
    """So a Guaranteed pod stays one; a smaller request stays, too."""
    asked = patch(Size("build", 8 * GIB, 8 * GIB, request_bytes), 12 * GIB)
    assert asked == {"spec": {"containers": [{"name": "build", "resources": resources}]}}
    assert patch(Size("build", 1, 1, None), MIB + 1)["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": str(MIB + 1)
    }


def pod(actual: str | None, *conditions: dict[str, Any]) -> dict[str, Any]:
    """A pod of generation 3 whose container has this memory."""
    resources = {"limits": {"memory": actual}} if actual else None
    statuses = [{"name": "other"}, {"name": "build", "resources": resources}]
    return {"metadata": {"generation": 3}, "status": {"conditions": list(conditions), "containerStatuses": statuses}}


def condition(kind: str, reason: str = "", **given: Any) -> dict[str, Any]:
    """A condition that holds."""
    return {"type": kind, "status": "True", "reason": reason, "message": "m", **given}


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (pod("8Gi"), Answer(State.DONE)),
        (pod("4Gi"), Answer(State.WAITING)),
        (pod(None), Answer(State.WAITING)),
        ({"metadata": {}}, Answer(State.WAITING)),
        (pod("8Gi", condition("PodResizeInProgress")), Answer(State.WAITING, "m")),
        (pod("4Gi", condition("PodResizeInProgress", "Error")), Answer(State.FAILING, "m")),
        (pod("4Gi", condition("PodResizePending", "Deferred")), Answer(State.DEFERRED, "m")),
        (pod("4Gi", condition("PodResizePending", "Infeasible")), Answer(State.INFEASIBLE, "m")),
        (pod("8Gi", condition("PodResizePending", "Infeasible", status="False")), Answer(State.DONE)),
        (pod("4Gi", condition("PodResizePending", "Infeasible", observedGeneration=2)), Answer(State.WAITING)),
        (pod("4Gi", condition("PodResizePending", "Infeasible", observedGeneration=3)), Answer(State.INFEASIBLE, "m")),
    ],
)
def test_the_kubelets_answer(found: dict[str, Any], answer: Answer) -> None:
    """By conditions, then by what the container has; a condition that is about an earlier resize does not count."""
    assert answer_of(found, "build", 8 * GIB, parse_bytes) == answer
