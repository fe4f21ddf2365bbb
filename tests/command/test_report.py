# SPDX-License-Identifier: MIT
"""`memguard report`: as text, for machines, and as a page in a real browser."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from memguard.channels.state import StateFile
from memguard.record.events import Ended, Event, as_object, from_object
from memguard.units import GIB, MIB
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import find_limits
from memguard_cli.builds.assemble import read_build
from memguard_cli.report.page import render
from memguard_cli.report.words import Standing, course
from testbed import build_logs
from testbed.browser import DESKTOP, PHONE, NoBrowser, Opened, browser, opened
from testbed.build_logs import BEGAN_S, STAMP, Logs
from testbed.command import memguard, refused

EVIL = "</script><img src=x onerror=alert(1)>\x1b[2J&amp;'\"\u202e<!--"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Return a build directory with the logs of one build of 200 tasks."""
    build_logs.make(200).write(tmp_path / "memguard")
    return tmp_path


def page_of(logs: Logs, place: Path) -> Path:
    """The page of a build with these logs."""
    path = logs.write(place)
    record = read_build(path)
    target = place / "report.html"
    limits = find_limits(record)
    target.write_text(render(record, Standing.ENDED, limits, advise(record, limits)), encoding="utf-8")
    return target


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_page_is_written_beside_the_logs(build: Path) -> None:
    """Without options the newest build's page is written, whole, and its name printed."""
    done = memguard("report", cwd=build)
    assert done.returncode == 0, done.stderr
    path = build / "memguard" / f"report-{STAMP}.html"
    assert done.stdout == f"{path}\n"
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [found.name for found in (build / "memguard").iterdir() if found.is_file()] == [path.name]


def test_two_builds_side_by_side(build: Path) -> None:
    """Named by stamp, file or directory; 80 columns, and an object for machines; no third one."""
    build_logs.make(200, seed=2).write(build / "memguard", "20260201120000")
    done = memguard("report", STAMP, "20260201120000", cwd=build)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for text in ("first", "second", "time", "peak", "changed by more than a fifth"):
        assert text in done.stdout
    events = build / "memguard" / "events" / f"{STAMP}.jsonl"
    told = json.loads(memguard("report", str(events), ".", "--json", cwd=build).stdout)
    assert told["changed"]
    assert "at most two builds" in refused(memguard("report", ".", ".", ".", cwd=build))
    assert "no such build" in refused(memguard("report", STAMP, "20250101000000", cwd=build))


def test_text_tells_the_same_in_80_columns(build: Path) -> None:
    """--text has verdict, figures, a drawing, advice, the heaviest and the held; no line is longer than 80 columns."""
    done = memguard("report", "--text", cwd=build, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for text in (
        "The build ended well after 13:47 min. It used at most",
        "Memory over time",
        "What to change",
        "The heaviest tasks",
        "predicted measured",
        "The heaviest source files and links",
        "held, the longest first",
        "MiB fit",
        "--- the limit, 16.0 GiB",
    ):
        assert text in done.stdout, done.stdout
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "MEMGUARD_FOOTPRINT" not in line) <= 80
    assert "\x1b" not in done.stdout


def test_json_is_one_object(build: Path) -> None:
    """--json has every task, what it took, and the advice, for machines."""
    done = memguard("report", "--json", cwd=build)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["build"] == STAMP
    assert told["standing"] == "ended"
    assert told["limit_bytes"] == 16 * GIB
    assert len(told["tasks"]) == told["counts"]["tasks"] == 200
    assert {"recipe", "task", "peak_bytes", "granted_bytes", "held_s", "outcome"} <= set(told["tasks"][0])
    assert told["memory"][0][2] == 16 * GIB
    assert all({"code", "finding", "remedy", "lines"} == set(advice) for advice in told["advice"])


@pytest.mark.parametrize("words", [["--text"], ["--json"], []])
def test_output_goes_where_it_is_told(build: Path, words: list[str]) -> None:
    """-o names a file for any of the three; - is standard output."""
    printed = memguard("report", *words, "-o", "-", cwd=build).stdout
    done = memguard("report", *words, "-o", "there", cwd=build)
    assert done.returncode == 0, done.stderr
    assert (build / "there").read_text(encoding="utf-8") == printed
    assert sorted(path.name for path in build.iterdir()) == ["memguard", "there"]


def test_another_build_and_a_file_can_be_named(build: Path) -> None:
    """--build takes another than the newest; an events file is a build, and so are its readings."""
    build_logs.make(5).write(build / "memguard", "20270101000000")
    directory = build / "memguard"
    for words, stamp in (
        ([], "20270101000000"),
        (["--build", STAMP], STAMP),
        ([str(directory / "events" / f"{STAMP}.jsonl")], STAMP),
        ([str(directory / "readings" / f"{STAMP}.jsonl")], STAMP),
        ([str(directory)], "20270101000000"),
    ):
        done = memguard("report", "--json", *words, cwd=build)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["build"] == stamp


def test_what_is_no_build_is_told_apart(build: Path) -> None:
    """Each thing that can be wrong has a sentence of its own; exit 2."""
    directory = build / "memguard"
    assert "does not exist" in refused(memguard("report", "nowhere", cwd=build))
    (build / "other").mkdir()
    assert "is not a build directory" in refused(memguard("report", "other", cwd=build))
    assert f"the newest are {STAMP}" in refused(memguard("report", "--build", "1999", cwd=build))
    assert "exclude each other" in refused(memguard("report", "--text", "--json", cwd=build))
    assert "cannot be written" in refused(memguard("report", "-o", "nowhere/x.html", cwd=build))
    assert "cannot be written" in refused(memguard("report", "-o", str(directory), cwd=build))
    log = directory / "events" / f"{STAMP}.jsonl"
    assert "--build chooses" in refused(memguard("report", str(log), "--build", STAMP, cwd=build))
    other = build / "notes.txt"
    other.write_text("hello\n", encoding="utf-8")
    assert "holds no events of a build" in refused(memguard("report", str(other), cwd=build))
    (directory / "readings" / log.name).unlink()
    log.write_text("", encoding="utf-8")
    assert "is empty" in refused(memguard("report", cwd=build))
    log.unlink()
    assert "no build has left a log" in refused(memguard("report", cwd=build))


@pytest.mark.parametrize(
    ("state", "standing", "sentence"),
    [
        ({"now_s": None, "pid": os.getpid()}, "running", "is still running"),
        ({"now_s": BEGAN_S, "pid": 2**22 - 1}, "killed", "was killed after"),
        (None, "killed", "was killed after"),
    ],
)
def test_a_build_without_an_end(build: Path, state: dict[str, Any] | None, standing: str, sentence: str) -> None:
    """A log without an end is a running build while its sentinel lives, a killed one else."""
    build_logs.make(200, has_end=False).write(build / "memguard")
    if state is not None:
        found = build_logs.make_state(**{**state, "now_s": state["now_s"] or time.time()})
        StateFile(build / "memguard").publish(found)
    done = memguard("report", "--json", cwd=build)
    assert json.loads(done.stdout)["standing"] == standing
    assert sentence in memguard("report", "--text", cwd=build).stdout


def test_a_copied_log_without_an_end_may_be_either(build: Path) -> None:
    """Where a log lies alone, nothing tells whether its build still runs."""
    log = build_logs.make(5, has_end=False).write(build / "memguard")
    copy = build / "copy.jsonl"
    copy.write_bytes(log.read_bytes())
    done = memguard("report", "--text", str(copy), cwd=build)
    assert "the build was killed, or still runs" in done.stdout
    assert "there are no readings of this build" in " ".join(done.stdout.split())


def test_a_failed_build_is_told(build: Path) -> None:
    """Tasks that failed are counted in the first sentence."""
    logs = build_logs.make(5)
    place, end = next((place, event) for place, event in enumerate(logs.events) if isinstance(event, Ended))
    logs.events[place] = replace(end, outcome="failed")
    logs.write(build / "memguard")
    assert "with 1 failed task." in memguard("report", "--text", cwd=build).stdout


def test_the_course_keeps_every_peak(tmp_path: Path) -> None:
    """A course of few moments has the highest of each stretch, the highest of all among them."""
    record = read_build(build_logs.make(400).write(tmp_path))
    few = course(record, 50)
    assert len(few) <= 50
    assert max(sight.used_bytes for sight in few) == record.peak_bytes
    assert [sight.time_s for sight in few] == sorted(sight.time_s for sight in few)


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return a browser for all tests of this file."""
    try:
        with browser() as found:
            yield found
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a build of 400 tasks with everything in it."""
    return page_of(build_logs.make(400), tmp_path_factory.mktemp("page"))


def overflow(shown: Opened) -> int:
    """By how many pixels the page is wider than its window."""
    return int(shown.tell("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def colours(shown: Opened) -> tuple[int, int]:
    """How light ground and text are, from 0 to 255."""
    found = []
    for name in ("background-color", "color"):
        text = shown.tell(f"getComputedStyle(document.body).getPropertyValue('{name}')")
        found.append(sum(map(int, re.findall(r"\d+", text)[:3])) // 3)
    return found[0], found[1]


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 560), (768, 1024)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_at_home_in_any_window(chromium: Browser, page: Path, size: tuple[int, int], scheme: str) -> None:
    """No message, no request but for itself, nothing wider than the window, chart and rows drawn, in both schemes."""
    with opened(chromium, page, size, scheme) as shown:
        assert shown.faults == []
        assert shown.requests == [page.as_uri()]
        assert overflow(shown) == 0
        ground, text = colours(shown)
        assert (ground > 230 and text < 60) if scheme == "light" else (ground < 40 and text > 200)
        assert shown.page.locator("#memory path.area").count() >= 8
        assert shown.page.locator(".row").count() > 5
        assert shown.page.locator("#legend li").count() == 9


def test_the_theme_can_be_chosen(chromium: Browser, page: Path) -> None:
    """The button goes from the system's scheme to light and to dark, and the choice is kept for the next look."""
    with opened(chromium, page, scheme="dark") as shown:
        assert colours(shown)[0] < 40
        shown.page.click("#theme")
        assert shown.page.inner_text("#theme") == "Theme: light"
        assert colours(shown)[0] > 230
        shown.page.click("#theme")
        assert colours(shown)[0] < 40
        shown.page.reload()
        assert shown.page.inner_text("#theme") == "Theme: dark"
        assert shown.faults == []


def contrast(shown: Opened, selector: str) -> float:
    """The contrast of an element's text with the page's ground, as WCAG counts it."""
    script = """selector => {
      const light = text => { const c = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
      const a = light(getComputedStyle(document.querySelector(selector)).color);
      const b = light(getComputedStyle(document.body).backgroundColor);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }"""
    return float(shown.page.evaluate(script, selector))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(chromium: Browser, page: Path, scheme: str) -> None:
    """Ink, hints and links have the contrast that WCAG 2 AA asks of text, 4.5."""
    with opened(chromium, page, scheme=scheme) as shown:
        for selector in ("body", ".hint", ".eyebrow", ".finding", "summary", "td.over", "footer"):
            assert contrast(shown, selector) >= 4.5, selector


def test_keys_do_what_a_mouse_does(chromium: Browser, page: Path) -> None:
    """With keys alone one gets to the chart, moves in it and looks closer, steps through the tasks and reads each."""
    with opened(chromium, page) as shown:
        for _ in range(12):
            shown.page.keyboard.press("Tab")
            if shown.tell("document.activeElement.id") == "memory":
                break
        assert shown.tell("document.activeElement.id") == "memory"
        at_peak = shown.page.inner_text("#memory-told")
        assert "(96 %)" in at_peak
        shown.page.keyboard.press("ArrowRight")
        assert shown.page.inner_text("#memory-told") != at_peak
        shown.page.keyboard.press("Home")
        assert shown.page.inner_text("#memory-told").startswith("After 0:00:00 ")
        shown.page.keyboard.press("+")
        shown.page.keyboard.press("+")
        assert " of 400 tasks" in shown.page.inner_text("#shown")
        shown.page.keyboard.press("0")
        assert shown.page.inner_text("#shown") == "400 tasks"
        for _ in range(20):
            shown.page.keyboard.press("Tab")
            if shown.tell("document.activeElement.id") == "tasks":
                break
        assert shown.tell("document.activeElement.id") == "tasks"
        shown.page.keyboard.press("End")
        chosen = shown.tell("document.getElementById('tasks').getAttribute('aria-activedescendant')")
        row = shown.page.locator(f"#{chosen}")
        assert row.get_attribute("aria-posinset") == "400"
        assert row.get_attribute("aria-selected") == "true"
        assert row.is_visible()
        assert shown.page.inner_text("#task-told") == row.get_attribute("aria-label")
        shown.page.keyboard.press("Enter")
        assert " of 400 tasks" in shown.page.inner_text("#shown")
        shown.page.keyboard.press("Escape")
        assert shown.page.inner_text("#shown") == "400 tasks"
        assert shown.faults == []


def test_tasks_can_be_found_and_sorted(chromium: Browser, page: Path) -> None:
    """Search, kinds and orders choose the rows that are meant."""
    with opened(chromium, page) as shown:
        first = ".row[aria-posinset='1']"
        shown.page.select_option("#order", "peak")
        assert shown.page.locator(first).get_attribute("aria-label").startswith("qtwebengine do_compile")
        shown.page.fill("#find", "LLVM")
        assert "llvm-native" in shown.page.inner_text(first)
        shown.page.fill("#find", "")
        for kind, word in (("held", "held"), ("acted", "withdrawn"), ("shrunk", " of 8 jobs")):
            shown.page.select_option("#show", kind)
            assert word in shown.page.locator(first).get_attribute("aria-label")
        shown.page.fill("#find", "no such task")
        assert "No task is like that." in shown.page.inner_text("#sheet")
        assert shown.faults == []


def test_dragging_looks_closer(chromium: Browser, page: Path) -> None:
    """A stretch that is dragged over in the chart is what chart and tasks then show."""
    with opened(chromium, page) as shown:
        box = shown.page.locator("#memory").bounding_box()
        assert box is not None
        shown.page.mouse.move(box["x"] + 300, box["y"] + 100)
        shown.page.mouse.down()
        shown.page.mouse.move(box["x"] + 500, box["y"] + 100, steps=4)
        assert shown.page.locator("rect.choice").count() == 1
        shown.page.mouse.up()
        assert " of 400 tasks" in shown.page.inner_text("#shown")
        shown.page.click("#zoom-all")
        assert shown.page.inner_text("#shown") == "400 tasks"


def test_without_a_script_the_tables_are_there(chromium: Browser, page: Path) -> None:
    """Where scripts are forbidden nothing is empty or out of order: verdict, advice and tables are told."""
    with opened(chromium, page, has_script=False) as shown:
        assert shown.page.inner_text(".verdict").startswith("The build ended well")
        assert not shown.page.is_visible("#tasks")
        assert shown.page.locator("table").count() == 4
        assert "tables below do not" in shown.page.inner_text("noscript")


def hostile() -> Logs:
    """A build all of whose names are made to break out of wherever they are put."""
    logs = build_logs.make(12)
    return Logs([spoiled(event) for event in logs.events], [spoiled(event) for event in logs.readings])


def spoiled(event: Event) -> Event:
    """The event with all its words made hostile."""
    line = as_object(event)
    for name in ("recipe", "task", "reason", "limit_source", "origin", "mode", "program"):
        if name in line:
            line[name] = EVIL + line[name]
    for row in line.get("tasks", ()):
        row[0], row[1] = EVIL + row[0], EVIL + row[1]
    for row in line.get("heaviest_jobs", ()):
        row[0], row[1] = EVIL + row[0], EVIL + row[1]
    return from_object(line)


def test_hostile_names_stay_text(chromium: Browser, tmp_path: Path) -> None:
    """Names full of markup are shown as they are, in tables, rows and chart; nothing of them runs or is fetched."""
    path = page_of(hostile(), tmp_path)
    with opened(chromium, path) as shown:
        assert shown.faults == []
        assert shown.requests == [path.as_uri()]
        assert shown.page.locator("img").count() == 0
        assert shown.page.locator("script").count() == 2
        assert "</script><img src=x onerror=alert(1)>?[2J&amp;'\"?<!--" in shown.page.inner_text(
            "#heaviest-heading ~ .wide"
        )
        assert "</script><img" in shown.page.inner_text("#tasks")
        assert shown.page.inner_text("h1").startswith("Build of")
    text = path.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "\x1b" not in text
    assert "\u202e" not in text


class _Addresses(HTMLParser):
    """Takes every attribute of a page that could name an address or hold a script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value) for name, value in attributes if name in ("src", "href", "style", "srcset")]
        self.found += [(tag, name, value) for name, value in attributes if name.startswith("on")]


def test_the_page_names_no_address(page: Path) -> None:
    """No element has an address outside the page, a style or a script of its own; the policy forbids them, too."""
    parser = _Addresses()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.found == [("link", "href", "data:,"), ("a", "href", "#main")]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page.read_text(encoding="utf-8"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_ten_thousand_tasks_are_no_burden(chromium: Browser, tmp_path: Path) -> None:
    """A page of 10,000 tasks is below 5 MB, has a row in the document for those in sight only, and scrolls to the last.

    How long it takes is printed, and measured by scripts/bench report.
    """
    path = page_of(build_logs.make(10_000), tmp_path)
    assert path.stat().st_size < 5 * MIB
    with opened(chromium, path) as shown:
        print(f"interactive after {shown.tell('document.documentElement.dataset.interactive')} ms")
        assert shown.page.inner_text("#shown") == "10,000 tasks"
        assert shown.page.locator(".row").count() < 60
        assert shown.tell("document.querySelectorAll('*').length") < 2000
        shown.page.focus("#tasks")
        shown.page.keyboard.press("End")
        shown.page.locator(".row[aria-posinset='10000']").wait_for()
        shown.page.keyboard.press("PageUp")
        assert shown.page.locator(".row").count() < 60
        assert shown.faults == []


@pytest.mark.parametrize("spoil", ["no readings", "half-written", "no limit", "one reading"])
def test_what_is_known_is_shown(chromium: Browser, tmp_path: Path, spoil: str) -> None:
    """Pages of logs that lack something say so and show the rest, without a fault."""
    logs = build_logs.make(30, has_end=spoil != "half-written")
    if spoil == "no limit":
        without = [
            [replace(event, limit_bytes=None) if hasattr(event, "limit_bytes") else event for event in log]
            for log in (logs.events, logs.readings)
        ]
        logs = Logs(*without)
    if spoil == "one reading":
        logs.readings = logs.readings[:1]
    path = logs.write(tmp_path)
    if spoil == "no readings":
        (tmp_path / "readings" / path.name).unlink()
    if spoil == "half-written":
        path.write_bytes(path.read_bytes()[:-30])
    record = read_build(path)
    target = tmp_path / "report.html"
    limits = find_limits(record)
    target.write_text(render(record, Standing.UNKNOWN, limits, advise(record, limits)), encoding="utf-8")
    with opened(chromium, target) as shown:
        assert shown.faults == []
        assert shown.page.locator("#memory").count() == (spoil != "no readings")
        assert shown.page.locator(".remark").count() == (spoil in ("no readings", "half-written"))
        assert shown.page.locator(".row").count() > 5
