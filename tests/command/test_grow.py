# SPDX-License-Identifier: MIT
"""`memguard grow` against a stand-in for the API server, which takes only what Kubernetes would take."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from memguard_cli.main import main
from testbed.api_server import POD, api_server, environment, pod_of

pytest.importorskip("kubernetes", reason="the client of Kubernetes is not here; scripts/setup brings it")


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def grow(account: Path, *words: str, **variables: str) -> Done:
    """Run the command as the pod would, in this process: the client of Kubernetes takes a second to load."""
    out, err = io.StringIO(), io.StringIO()
    environ = mock.patch.dict(os.environ, {"PATH": os.environ["PATH"], **variables}, clear=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), environ:
        status = main(["grow", "--account", str(account), *words])
    return Done(status, out.getvalue(), err.getvalue())


def played(
    tmp_path: Path, pod: dict[str, Any], *words: str, play: str = "done", **given: Any
) -> tuple[Done, list[Any]]:
    """What the command says where the cluster plays so, and the memory that it asked for: requests and limits."""
    variables = given.pop("variables", {})
    with api_server(tmp_path / "account", pod, play, **given) as server:
        done = grow(tmp_path / "account", "--pod", POD, *words, **environment(server), **variables)
        assert server.refused == []
    asked = [patch["spec"]["containers"][0]["resources"] for patch in server.patches]
    return done, [(part.get("requests", {}).get("memory"), part["limits"]["memory"]) for part in asked]


def test_the_container_grows_by_what_is_wanted_in_steps(tmp_path: Path) -> None:
    """5 GiB are wanted: two steps of 4 GiB, in requests as in limits; the answer is one line."""
    wanted = {"MEMGUARD_WANTED_BYTES": str(5 << 30)}
    granted: list[str] = []
    pod = pod_of(most="48Gi", step="4Gi")
    done, asked = played(tmp_path, pod, play="slow", granted=granted.append, variables=wanted)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{POD} build: 24.0 GiB to 32.0 GiB: done in ")
    assert asked == [("32Gi", "32Gi")]
    assert granted == ["32Gi"]


def test_it_grows_one_step_where_nobody_says_how_much_and_never_beyond_the_most(tmp_path: Path) -> None:
    """A quarter is a step; the most is kept, and there it asks for nothing any more."""
    done, asked = played(tmp_path, pod_of(), "--most", "28G", variables={"MEMGUARD_WANTED_BYTES": ""})
    assert (done.returncode, asked) == (0, [("28Gi", "28Gi")])
    done, asked = played(tmp_path, pod_of(most="24Gi"))
    assert (done.returncode, asked) == (0, [])
    assert done.stdout == f"{POD} build: 24.0 GiB to 24.0 GiB: nothing to do\n"


def test_a_request_that_is_smaller_stays(tmp_path: Path) -> None:
    """A burstable pod keeps its class and its request."""
    pod = pod_of(most="48Gi")
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = "8Gi"
    done, asked = played(tmp_path, pod, "--step", "8G")
    assert (done.returncode, asked) == (0, [(None, "32Gi")])


def test_it_gives_back_no_more_than_is_free(tmp_path: Path) -> None:
    """Down to the least that the pod names, in requests as in limits."""
    done, asked = played(tmp_path, pod_of("900Gi", step="1Gi", least="800Gi"), "--give-back")
    assert (done.returncode, asked) == (0, [("800Gi", "800Gi")])
    done, asked = played(tmp_path, pod_of("900Gi", step="1Ki"), "--give-back", "--least", "1K")
    assert (done.returncode, len(asked)) == (0, 1)
    assert "are in use, so no less than " in done.stderr
    assert int(asked[0][1].removesuffix("Mi")) > 1


@pytest.mark.parametrize(
    ("play", "status", "words"),
    [
        ("deferred", 3, "deferred until the node has room (Node didn't have enough resource: memory)"),
        ("failing", 3, "the kubelet fails at it and tries again (cannot write memory.max)"),
        ("quota", 3, "exceeded quota"),
        ("gone", 3, f"there is no pod {POD} in builds"),
        ("old", 3, "needs Kubernetes 1.33"),
        ("forbidden", 2, "the service account needs the role of conf/kubernetes/grow-role.yml"),
    ],
)
def test_every_no_is_one_line(tmp_path: Path, play: str, status: int, words: str) -> None:
    """Whatever the cluster answers, the command says it in one line; what is deferred stays asked for."""
    done, asked = played(tmp_path, pod_of(most="48Gi"), "--wait", "0.2", play=play)
    assert done.returncode == status
    assert words in done.stderr
    assert done.stderr.startswith("memguard: ")
    assert done.stderr.count("\n") == 1
    assert len(asked) == (play in ("deferred", "failing"))


def test_what_the_node_can_never_give_is_taken_back(tmp_path: Path) -> None:
    """An infeasible size does not stay in the spec; the pod says again what it has."""
    done, asked = played(tmp_path, pod_of(most="48Gi"), "--step", "4G", play="infeasible")
    assert done.returncode == 3
    assert "infeasible on this node, and taken back" in done.stderr
    assert asked == [("28Gi", "28Gi"), ("24Gi", "24Gi")]


def test_what_takes_long_is_not_waited_for(tmp_path: Path) -> None:
    """After its time the command says that it is not done; the request stands."""
    done, asked = played(tmp_path, pod_of(most="48Gi"), "--wait", "0.2", play="slow", delay_s=60.0)
    assert done.returncode == 3
    assert "the kubelet has not done it yet" in done.stderr
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("words", "annotations", "said"),
    [
        ((), {}, "memguard/grow-most, or give --most; a good one is --most 48G"),
        ((), {"most": "much"}, "annotation memguard/grow-most is 'much', which is not a size"),
        (("--give-back",), {"most": "48Gi"}, "memguard/grow-least, or give --least"),
        (("--container", "biuld"), {"most": "48Gi"}, "no container biuld, only build, sidecar"),
        (("--most", "lots"), {}, "--most lots: no size; a good one is 4G"),
        (("--wait", "-1"), {}, "--wait -1: not between 0 and 3600 seconds"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, words: tuple[str, ...], annotations: dict[str, str], said: str
) -> None:
    """A bad or missing value is an error of one line that shows a good one; nothing is asked for."""
    done, asked = played(tmp_path, pod_of(**annotations), *words)
    assert (done.returncode, asked) == (2, [])
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_account_and_no_server_are_named(tmp_path: Path) -> None:
    """Outside a pod there is no token; a server that does not answer, or whose name is not known, is named, too."""
    done = grow(tmp_path / "nothing")
    assert done.returncode == 2
    assert f"no service account in {tmp_path}/nothing" in done.stderr
    with api_server(tmp_path / "account", pod_of()) as server:
        (tmp_path / "account" / "token").write_text("another")
        done = grow(tmp_path / "account", "--pod", POD, **environment(server))
    assert done.returncode == 2
    assert "does not take the token" in done.stderr
    done = grow(tmp_path / "account", **environment(server))
    assert done.returncode == 3
    assert f"no answer from the API server at https://127.0.0.1:{server.port}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_where_the_environment_is_plain_the_server_is_found_by_its_name(tmp_path: Path) -> None:
    """MEMGUARD_PRESSURE_CMD sees none of the variables that a container gets."""
    with api_server(tmp_path / "account", pod_of()):
        done = grow(tmp_path / "account")
    assert done.returncode == 3
    assert "no answer from the API server at https://kubernetes.default.svc:443" in done.stderr
