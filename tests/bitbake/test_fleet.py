# SPDX-License-Identifier: MIT
"""A build whose MEMGUARD_HISTORY is a database: real BitBake and command, with databases alive, silent and dead."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_build import ON, Built, build

from memguard.predict.kinds import by_kind
from memguard.record.history.store import History
from memguard.server import fleet
from memguard.server.fleet import Fleet
from memguard.units import MIB
from testbed import addresses
from testbed.bitbake import BitBake
from testbed.command import memguard
from testbed.postgresql import QUOTED_PASSWORD, Postgres, closed_port, silent_server
from testbed.records import RUN

SECRET = "letmein2026"
# A compile that lasts until the command has come to its end, as real ones do.
UNTIL_PULLED = """\
TINY_COMMAND = "timeout 120 sh -c 'until grep -E \"added|cannot\" ${TOPDIR}/memguard/fleet.log; do sleep 1; done'"
"""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is in PATH, as scripts/setup has installed it beside this Python."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def warnings_of(output: str) -> list[str]:
    """What memguard warned of in a build."""
    return re.findall(r"^WARNING: memguard: (.*)$", output, re.MULTILINE)


def test_a_build_learns_from_the_fleet_and_teaches_it(bitbake: BitBake, server: Postgres, tmp_path: Path) -> None:
    """Another pod's sample is in this build's file at its end, and this build's own are in the database."""
    url = server.make_database("fleet")
    with contextlib.closing(History(tmp_path / "other.db", warn=pytest.fail)) as history:
        history.add([replace(RUN, build="other", recipe="elsewhere")], 1000.0)
    _push(tmp_path / "other.db", url)
    conf = f'{ON}{UNTIL_PULLED}MEMGUARD_HISTORY = "{url}"\n'
    built = build(bitbake, tmp_path / "build", conf, "tiny-01")
    assert built.result.returncode == 0, built.result.output
    assert warnings_of(built.result.output) == []
    # The last push may go on for a moment after the build; the next one sends what is missing.
    _push(tmp_path / "build/memguard/history.db", url)
    asked = "SELECT DISTINCT recipe FROM memguard_samples ORDER BY recipe"
    assert {"elsewhere", "tiny-01"} <= set(server.sql("fleet", asked).split())
    with contextlib.closing(History(tmp_path / "build/memguard/history.db", warn=pytest.fail)) as history:
        assert len(history.records("elsewhere")) == 1
    assert QUOTED_PASSWORD not in built.result.output


def test_a_kind_never_built_here_is_predicted_by_the_fleet(bitbake: BitBake, server: Postgres, tmp_path: Path) -> None:
    """Two recipes that another pod built took far more than their kind is thought to; a third one here is given it.

    The other pod's build says itself what kind of task each was.
    """
    url = server.make_database("kinds")
    eat = f"{sys.executable} -c 'held = bytes(1) * (600 << 20); import time; time.sleep(2)'"
    recipes = ["tiny-02", "tiny-07"]
    there = build(bitbake, tmp_path / "there", f'{ON}TINY_COMMAND = "{eat}"\n', *recipes)
    assert there.result.returncode == 0, there.result.output
    _push(there.directory / "memguard/history.db", url)

    here = tmp_path / "here/memguard/history.db"
    done = memguard("history", "pull", "--timeout", "60", "--history", str(here), url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    built = build(bitbake, tmp_path / "here", ON, "tiny-01")
    assert built.result.returncode == 0, built.result.output
    grants = {name: _granted(one, name) for one, name in ((there, "tiny-02"), (built, "tiny-01"))}
    guess = by_kind("do_compile", frozenset())
    assert grants["tiny-02"] < 600 * MIB
    assert grants["tiny-01"] > 600 * MIB
    with contextlib.closing(History(here, warn=pytest.fail)) as history:
        assert {sample.record.kind for name in recipes for sample in history.records(name, "do_compile")} == {
            guess.origin
        }


def _granted(built: Built, recipe: str) -> int:
    """What the compile of a recipe was given, in bytes."""
    (grant,) = built.of("grant", recipe, "do_compile")
    granted: int = grant["bytes"]
    return granted


def _push(history: Path, url: str) -> None:
    done = memguard("history", "push", "--timeout", "60", "--history", str(history), url, cwd=history.parent)
    assert done.returncode == 0, done.stderr


def test_a_dead_database_costs_one_warning(bitbake: BitBake, tmp_path: Path) -> None:
    """The build succeeds, remembers in its own file, and never tells the password."""
    with closed_port() as port:
        url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/db"
        built = build(bitbake, tmp_path, f'{ON}{UNTIL_PULLED}MEMGUARD_HISTORY = "{url}"\n', "tiny-01")
    assert built.result.returncode == 0, built.result.output
    (warning,) = warnings_of(built.result.output)
    assert f"postgresql://127.0.0.1:{port}/db cannot be used" in warning
    assert SECRET not in built.result.output
    with contextlib.closing(History(tmp_path / "memguard/history.db", warn=pytest.fail)) as history:
        assert history.records("tiny-01")


# -- without BitBake ---------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    """What was warned of."""
    return []


def join(url: str, directory: Path, said: list[str]) -> Fleet:
    """The exchange of a build that has remembered one task."""
    with contextlib.closing(History(directory / "history.db", warn=pytest.fail)) as history:
        history.add([RUN])
    return Fleet(url, str(directory / "history.db"), 64 * MIB, directory, said.append)


def test_a_silent_database_is_not_waited_for(tmp_path: Path, said: list[str]) -> None:
    """A pull that gets no answer ends with the build; a push that gets none is left to itself, and gives up."""
    with silent_server() as port:
        exchange = join(f"postgresql://u:{SECRET}@127.0.0.1:{port}/db", tmp_path, said)
        exchange.pull()
        pulling = exchange._pulling
        assert pulling is not None
        note = exchange.push()
        assert pulling.returncode is not None
        assert "still being sent" in note
        assert said == []


def test_a_wrong_password_is_said_once(tmp_path: Path, said: list[str], server: Postgres, patient: None) -> None:
    """The server's word for it, not the password; and not again at the end."""
    url = server.make_database("locked").replace(QUOTED_PASSWORD, SECRET)
    exchange = join(url, tmp_path, said)
    exchange.pull()
    assert exchange._pulling is not None
    exchange._pulling.wait(60)
    assert exchange.push() == ""
    (sentence,) = said
    assert "password authentication failed" in sentence
    assert SECRET not in sentence


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other things gets the time it needs to see the end."""
    monkeypatch.setattr(fleet, "PATIENCE_S", 60.0)


def test_a_push_that_is_done_says_so(tmp_path: Path, said: list[str], server: Postgres, patient: None) -> None:
    """What was sent is in the database."""
    exchange = join(server.make_database("pushed"), tmp_path, said)
    assert exchange.push() == "what was learned is in the fleet's database"
    assert server.sql("pushed", "SELECT count(*) FROM memguard_samples") == "1"
    assert said == []


def test_a_host_without_the_command_is_told_once(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install and where this build remembers; nothing is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fleet, "_PLACES", ())
    exchange = join(f"postgresql://u:{SECRET}@h/db", tmp_path, said)
    exchange.pull()
    assert exchange.push() == ""
    (sentence,) = said
    assert f"pipx install '{addresses.read()['package']}[postgresql]'" in sentence
    assert str(tmp_path / "history.db") in sentence


def test_the_command_is_found_where_kas_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a PATH and a HOME that are not the user's, it is found where pip, pipx and uv install it."""
    mine = tmp_path / "mine" / ".local" / "bin"
    mine.mkdir(parents=True)
    program = mine / "memguard"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    account = pwd.struct_passwd(("me", "x", 1, 1, "", str(tmp_path / "mine"), "/bin/sh"))
    monkeypatch.setattr("memguard.server.fleet.pwd.getpwuid", lambda uid: account)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fleet.find_command("/usr/sbin:/usr/bin:/sbin:/bin") == str(program)
    other = tmp_path / "memguard"
    shutil.copy(program, other)
    assert fleet.find_command(str(tmp_path)) == str(other)


def test_a_command_of_another_kind_is_survived(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name that knows nothing of histories costs one warning."""
    program = tmp_path / "memguard"
    program.write_text("#!/bin/sh\nprintf '\\033[2J'\nexit 7\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    exchange = join("postgresql://h/db", tmp_path, said)
    exchange.pull()
    assert exchange._pulling is not None
    exchange._pulling.wait(60)
    exchange.end()
    assert said == ["memguard history ended with exit status 7"]


def test_the_password_is_not_in_the_list_of_processes(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every user of a machine can read of a process does not hold the URL."""
    program = tmp_path / "memguard"
    program.write_text('#!/bin/sh\necho "$@" >"$HOME/words"\necho "$MEMGUARD_HISTORY" >"$HOME/url"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    exchange = join(f"postgresql://u:{SECRET}@h/db", tmp_path, said)
    exchange.pull()
    assert exchange._pulling is not None
    exchange._pulling.wait(60)
    assert SECRET not in (tmp_path / "words").read_text()
    assert SECRET in (tmp_path / "url").read_text()
