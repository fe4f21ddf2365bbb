# SPDX-License-Identifier: MIT
"""Metrics: what a state becomes, the file it is written to, and that documents, alerts and dashboard know the names."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_build import ON, build

from memguard.channels.state import Counts, as_object, parse
from memguard.record.metrics import COUNTER, INTERVAL_S, METRICS, MetricsFile, format_text, measure, measure_end
from testbed.bitbake import BitBake
from testbed.scraped import parsed
from testbed.states import STATE

REPOSITORY = Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "conf" / "prometheus" / "memguard-alerts.yml"
DASHBOARD = REPOSITORY / "conf" / "grafana" / "memguard.json"
NAMES = {metric.name for metric in METRICS}


def test_a_running_build_tells_every_metric() -> None:
    """Each row of the table is there, with the number that the state has."""
    told = parsed(format_text(measure(STATE)))
    assert set(told) == NAMES
    assert told["memguard_build_running"] == {"": 1}
    assert told["memguard_limit_bytes"] == {"": 8 << 30}
    assert told["memguard_mark_bytes"] == {"withdraw": 6 << 30, "stop": 7 << 30, "kill": (8 << 30) - 1}
    assert told["memguard_tasks"] == {"running": 1, "stopped": 1, "retrying": 0, "held": 1}
    assert told["memguard_held_oldest_seconds"] == {"": 60}
    assert told["memguard_tasks_current_bytes"] == {"": 1010}
    assert told["memguard_tasks_swapped_bytes"] == {"": 40 << 20}
    assert told["memguard_compilers"] == {"running": 3, "stopped": 1}
    assert told["memguard_tokens"] == {"": 3}
    assert told["memguard_neighbours"] == told["memguard_neighbours_bytes"] == {"": 0}
    assert told["memguard_build_info"] == {"enforce": 1}
    assert told["memguard_compilers_stopped_total"] == {"": 5}


def test_a_build_that_has_ended_keeps_its_counts() -> None:
    """Nothing is in use any more, and the last counts are not lost between two scrapes."""
    told = parsed(format_text(measure_end(5.0, STATE.counts)))
    assert set(told) == {metric.name for metric in METRICS if metric.is_ending}
    assert told["memguard_build_running"] == {"": 0}
    assert told["memguard_tasks_granted_total"] == {"": 10}


def test_what_is_not_known_is_not_told() -> None:
    """No tokens, no count by the kernel, no state: the metric is missing rather than 0."""
    told = parsed(format_text(measure(replace(STATE, tasks={}, counts=Counts(oom_kills=None)))))
    assert not {"memguard_tokens", "memguard_oom_kills_total"} & set(told)
    assert "memguard_state_timestamp_seconds" not in parsed(format_text(measure_end(None, Counts())))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TOLD = as_object(STATE)


@given(st.dictionaries(st.sampled_from(sorted(TOLD)), JSON))
def test_no_state_breaks_the_text(odd: dict[str, Any]) -> None:
    """Whatever a file holds, it is no state, or one whose text Prometheus reads."""
    try:
        state = parse(json.dumps({**TOLD, **odd}).encode())
    except ValueError:
        return
    assert parsed(format_text(measure(state)))["memguard_build_running"] == {"": 1}


def test_names_follow_the_conventions() -> None:
    """Counters end in _total and nothing else does; sizes and times are in base units; a help is a sentence."""
    for metric in METRICS:
        assert re.fullmatch(r"memguard_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert not re.search(r"_(mib|kib|gib|ms|percent|minutes)(_|$)", metric.name)
        assert metric.help.endswith((".", "0."))
    assert len(NAMES) == len(METRICS)


def test_the_document_has_the_table() -> None:
    """docs/metrics.md has a row for each metric, as the code has it, and no other."""
    rows = re.findall(
        r"^\| `(memguard_\w+)` \| (\w+) \| (?:`(\w+)`)? *\| (yes)? *\| (.*) \|$", _document(), re.MULTILINE
    )
    assert rows == [(m.name, m.kind, m.label, "yes" if m.is_ending else "", m.help) for m in METRICS]


def _document() -> str:
    return (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_written_every_few_seconds(tmp_path: Path) -> None:
    """The first state is written at once, the next when it is due; the end is written in any case."""
    path = tmp_path / "memguard.prom"
    file = MetricsFile(str(path), warn=pytest.fail)
    file.update(STATE, 100.0)
    file.update(replace(STATE, used_bytes=1), 100.0 + INTERVAL_S / 2)
    assert parsed(path.read_text())["memguard_used_bytes"] == {"": 5 << 30}
    file.update(replace(STATE, used_bytes=1), 100.0 + INTERVAL_S)
    assert parsed(path.read_text())["memguard_used_bytes"] == {"": 1}
    file.finish(1764000200.0, replace(STATE.counts, killed=7))
    ended = parsed(path.read_text())
    assert (ended["memguard_build_running"], ended["memguard_compilers_killed_total"]) == ({"": 0}, {"": 7})
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_promtool_accepts_the_file(tmp_path: Path, promtool: str) -> None:
    """Prometheus' own linter finds nothing in what a build writes."""
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=format_text(measure(STATE)), capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    """A missing directory costs one sentence and no more, and leaves nothing behind."""
    said: list[str] = []
    file = MetricsFile(str(tmp_path / "gone" / "memguard.prom"), warn=said.append)
    for now_s in (0.0, 10.0, 20.0):
        file.update(STATE, now_s)
    file.finish(1.0, Counts())
    assert said == [
        f"{tmp_path}/gone/memguard.prom cannot be written (No such file or directory): no metrics of this build"
    ]


def test_a_failing_rename_leaves_no_draft(tmp_path: Path) -> None:
    """Where the name is taken by a directory, the draft is gone again."""
    (tmp_path / "memguard.prom").mkdir()
    said: list[str] = []
    MetricsFile(str(tmp_path / "memguard.prom"), warn=said.append).update(STATE, 0.0)
    assert len(said) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["memguard.prom"]


def test_no_name_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MEMGUARD_METRICS nothing happens at all."""
    monkeypatch.chdir(tmp_path)
    file = MetricsFile("", warn=pytest.fail)
    file.update(STATE, 0.0)
    file.finish(0.0, Counts())
    assert list(tmp_path.iterdir()) == []


def test_a_build_writes_the_file(bitbake: BitBake, tmp_path: Path) -> None:
    """A real build tells how it stands while it runs, and at its end that it has ended and what it counted."""
    path = tmp_path / "memguard.prom"
    seen = "TINY_COMMAND = \"timeout 120 sh -c 'until cp ${MEMGUARD_METRICS} ${TOPDIR}/seen; do sleep 1; done'\"\n"
    built = build(bitbake, tmp_path / "build", f'{ON}{seen}MEMGUARD_METRICS = "{path}"\n', "tiny-01")
    assert built.result.returncode == 0, built.result.output
    during = parsed((tmp_path / "build" / "seen").read_text())
    assert during["memguard_build_running"] == {"": 1}
    assert during["memguard_used_bytes"][""] > 0
    ended = parsed(path.read_text())
    assert ended["memguard_build_running"] == {"": 0}
    assert ended["memguard_tasks_granted_total"] == {"": len(built.of("grant"))}
    assert ended["memguard_tasks_lost_total"] == {"": 0}


# -- alerts and dashboard ----------------------------------------------------------------------------------------------


def _run(promtool: str, *words: str) -> str:
    done = subprocess.run([promtool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_promtool_accepts_the_alerts(promtool: str) -> None:
    """The rules are sound."""
    assert f"{len(_alerts())} rules found" in _run(promtool, "check", "rules", str(ALERTS))


def test_the_alerts_fire_when_they_should(promtool: str) -> None:
    """Prometheus' own unit tests of the rules hold, and each rule has one that sees it fire."""
    tests = ALERTS.with_name("memguard-alerts-test.yml")
    _run(promtool, "test", "rules", str(tests))
    fired = {
        case["alertname"]
        for test in yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in _alerts()}


def test_a_broken_rule_would_be_seen(promtool: str, tmp_path: Path) -> None:
    """The tests of the rules fail when a threshold is another one."""
    for name in (ALERTS.name, "memguard-alerts-test.yml"):
        shutil.copy(ALERTS.with_name(name), tmp_path / name)
    broken = ALERTS.read_text(encoding="utf-8").replace("> 0.9", "> 0.99")
    (tmp_path / ALERTS.name).write_text(broken, encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "memguard-alerts-test.yml")], capture_output=True, text=True
    )
    assert done.returncode != 0


def _expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboards_expressions_are_sound(promtool: str, tmp_path: Path) -> None:
    """Each expression is one that Prometheus would take."""
    rules = [
        {"record": f"check:{number}", "expr": expression.replace("$instance", ".*")}
        for number, expression in enumerate(_expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in _run(promtool, "check", "rules", str(path))


def test_dashboard_and_alerts_know_the_metrics() -> None:
    """Every metric that is drawn or watched is in the table, and every metric but two is drawn."""
    drawn = set(re.findall(r"memguard_\w+", " ".join(_expressions())))
    watched = {name for rule in _alerts() for name in re.findall(r"memguard_\w+", rule["expr"])}
    assert drawn <= NAMES
    assert watched <= NAMES
    assert NAMES - drawn - watched == {"memguard_build_info", "memguard_tasks_granted_total"}


def test_dashboard_has_its_shape() -> None:
    """Panels have numbers of their own, a title, and a place that no other covers."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"]
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
