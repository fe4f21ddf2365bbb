# SPDX-License-Identifier: MIT
"""A real build in a real cgroup that asks a stand-in for Kubernetes for more memory, and has it, or not."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from memguard.units import GIB, parse_bytes
from testbed import api_server, builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST
from testbed.container import NoContainer, container
from testbed.events import read_events

pytest.importorskip("kubernetes", reason="the client of Kubernetes is not here; scripts/setup brings it")

REPOSITORY = Path(__file__).resolve().parents[2]
# Whoever is first lasts until something has come about; the other, which does not fit beside it, would wait as long.
CONF = """\
INHERIT += "memguard"
MEMGUARD_FOOTPRINT:pn-tiny-01 = "do_compile:base=1200M"
MEMGUARD_FOOTPRINT:pn-tiny-02 = "do_compile:base=1200M"
TINY_COMMAND = "! mkdir ${{TOPDIR}}/first || {{ tiny_await {until}; sleep 1; }}"
BB_NUMBER_THREADS = "8"
MEMGUARD_PRESSURE_CMD = "{command}"
"""
# Given the memory, the other one begins; refused, it waits on.
UNTIL = {"slow": "2 compile ${TINY_LOG}", "infeasible": "1 'taken back' ${TOPDIR}/said"}


def of(events: list[dict[str, Any]], event: str, recipe: str) -> dict[str, Any]:
    """The one event of this type that the compile of a recipe has."""
    (found,) = [
        line
        for line in events
        if (line["event"], line.get("recipe"), line.get("task")) == (event, recipe, "do_compile")
    ]
    return found


@pytest.mark.memcg
@pytest.mark.parametrize("play", ["slow", "infeasible"])
def test_a_build_that_would_wait_asks_for_memory(bitbake: BitBake, tmp_path: Path, play: str) -> None:
    """Given it, the held task starts beside the one it waited for; refused, it starts after that one, as without."""
    try:
        with container(2 * GIB, "memguard-grow") as box:
            granted: list[int] = []

            def grant(memory: str) -> None:
                granted.append(parse_bytes(memory))
                box.resize(granted[-1])

            pod = api_server.pod_of("2Gi", step="512Mi", most="4Gi")
            with api_server.api_server(tmp_path / "account", pod, play, granted=grant) as server:
                variables = {**api_server.environment(server), "PYTHONPATH": ":".join(sys.path)}
                words = [f"{name}={value}" for name, value in variables.items()]
                words += [sys.executable, "-m", "memguard_cli.main", "grow", "--pod", api_server.POD]
                words += ["--account", str(tmp_path / "account")]
                build = tmp_path / "build"
                conf = CONF.format(command=f"env {shlex.join(words)} >>{build}/said 2>&1", until=UNTIL[play])
                builddir.make(build, [META_TEST, REPOSITORY / "meta-memguard"], conf)
                result = builddir.run(bitbake, build, "tiny-01", "tiny-02", prefix=box.prefix)
    except NoContainer as missing:
        pytest.skip(str(missing))
    assert result.returncode == 0, result.output
    assert result.leftover == ()
    assert server.refused == []
    events, said = read_events(build), (build / "said").read_text(encoding="utf-8")
    freed, held = sorted(("tiny-01", "tiny-02"), key=lambda recipe: of(events, "start", recipe)["time"])
    print(f"held for {of(events, 'release', held)['held_s']} s; {said}")
    release, end = of(events, "release", held), of(events, "end", freed)
    assert "more: " in result.output
    assert f"{held} do_compile waits while CPUs idle" in result.output
    if play == "slow":
        assert granted == [3 * GIB], said
        assert "2.0 GiB to 3.0 GiB: done in" in said
        assert release["time"] < end["time"]
    else:
        assert granted == []
        assert "infeasible on this node, and taken back" in said
        assert release["time"] >= end["time"]
