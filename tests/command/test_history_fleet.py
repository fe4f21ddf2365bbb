# SPDX-License-Identifier: MIT
"""One memory for many builds: push and pull with a real PostgreSQL server, and with ones that are none."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memguard.model import Record
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import Lives
from memguard.record.history.samples import TaskLives, format_sample
from memguard.record.history.store import History
from memguard.settings import without_secrets
from memguard.units import MIB
from memguard_cli.builds import lives_lines
from memguard_cli.fleet.database import FleetDatabase
from testbed.command import COMMAND, environment, memguard, refused
from testbed.postgresql import PASSWORD, QUOTED_PASSWORD, Postgres, closed_port, silent_server
from testbed.records import RUN


@pytest.fixture
def url(server: Postgres, request: pytest.FixtureRequest) -> str:
    """A new, empty database."""
    return server.make_database(f"db{abs(hash(request.node.name))}")


def put(path: Path, *records: Record, began_s: float = 1000.0) -> Path:
    """A history of these records."""
    with contextlib.closing(History(path, warn=pytest.fail)) as history:
        history.add(records, began_s)
    return path


def samples(path: Path) -> list[dict[str, Any]]:
    """All samples of a history, in an order of their own."""
    with contextlib.closing(History(path, warn=pytest.fail, is_read_only=True)) as history:
        return sorted(history.export(), key=json.dumps)


def push(path: Path, url: str, *words: str, **env: str) -> str:
    """Send a history; what the command says."""
    done = memguard("history", "push", "--history", str(path), *words, url, cwd=path.parent, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def pull(path: Path, url: str) -> str:
    """Take over into a history; what the command says."""
    done = memguard("history", "pull", "--history", str(path), url, cwd=path.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_one_pod_learns_what_another_has_seen(url: str, server: Postgres, tmp_path: Path) -> None:
    """What is pushed from one history is pulled into another one, whole; a second time changes nothing."""
    one = put(tmp_path / "one.db", RUN, replace(RUN, task="do_package", jobs=None, peak_bytes=None))
    assert push(one, url) == f"2 added, 0 known, to postgresql://{server.directory}/{_database(url)}\n"
    assert push(one, url).startswith("0 added, 2 known, to postgresql://")
    other = tmp_path / "other.db"
    assert pull(other, url).startswith("2 added, 0 known, 0 bad, from postgresql://")
    assert samples(other) == samples(one)
    assert pull(other, url).startswith("0 added, 0 known")
    # What was pulled is not sent back as something new, and what is new is.
    put(other, replace(RUN, build="b1", peak_bytes=500 * MIB), began_s=2000.0)
    assert push(other, url).startswith("1 added, 2 known")
    assert pull(one, url).startswith("1 added")
    assert samples(one) == samples(other)


def test_kinds_and_lives_travel_through_the_database(url: str, server: Postgres, tmp_path: Path) -> None:
    """What kind a task is of and what its single jobs took; the newest build is believed, and nothing is sent twice.

    A database that an older memguard made has no table of lives: it is read as it is, and gets one by a push.
    """
    one, other = put(tmp_path / "one.db", replace(RUN, kind="an autotools build")), tmp_path / "other.db"
    push(one, url)
    server.sql(_database(url), "DROP TABLE memguard_lives")
    assert "jobs" not in pull(other, url)
    assert [sample["kind"] for sample in samples(other)] == ["an autotools build"]
    learn(one, {1: 50 * MIB, 2: 60 * MIB})
    assert push(one, url).startswith("0 added, 1 known, what single jobs of 1 task took, to postgresql://")
    assert push(one, url).startswith("0 added, 1 known, to postgresql://")
    assert pull(other, url).startswith("0 added, 0 known, 0 bad, what single jobs of 1 task took, from postgresql://")
    assert known_peaks(other) == {1: 50 * MIB, 2: 60 * MIB}
    assert "jobs" not in pull(other, url)
    learn(other, {2: 90 * MIB, 3: 70 * MIB})
    push(other, url)
    pull(one, url)
    assert known_peaks(one) == {1: 50 * MIB, 2: 90 * MIB, 3: 70 * MIB}
    server.sql(_database(url), "UPDATE memguard_lives SET units = 'lives2', written_s = written_s + 9")
    assert ", 1 bad, from" in pull(one, url)
    assert known_peaks(one) == {1: 50 * MIB, 2: 90 * MIB, 3: 70 * MIB}


def test_lives_that_are_none_end_nothing(url: str, server: Postgres, tmp_path: Path) -> None:
    """Rows of the database that no history can keep are passed over; both directions go on with the others."""
    one, other = put(tmp_path / "one.db", RUN), tmp_path / "other.db"
    learn(one, {1: 50 * MIB})
    push(one, url)
    server.sql(
        _database(url),
        r"""INSERT INTO memguard_lives SELECT bad.recipe, bad.task, bad.written_s, units FROM memguard_lives,
            (VALUES (repeat('x', 501), 'do_compile', 1.0), (E'\x1b[2J', 'do_compile', 1.0), ('', 'do_compile', 1.0),
            ('late', 'do_compile', 1e300), ('never', 'do_compile', 'Infinity')) AS bad (recipe, task, written_s)""",
    )
    server.sql(
        _database(url),
        "INSERT INTO memguard_lives VALUES ('long', 'do_compile', 1, decode(repeat('00', 3 << 20), 'hex'))",
    )
    assert ", 6 bad, what single jobs of 1 task took, from" in pull(other, url)
    learn(other, {1: 50 * MIB, 2: 60 * MIB})
    assert "what single jobs of 1 task took" in push(other, url)
    pull(one, url)
    assert known_peaks(one) == {1: 50 * MIB, 2: 60 * MIB}


def test_lives_that_were_sent_are_not_sent_again(url: str, server: Postgres, tmp_path: Path) -> None:
    """A push reads when those that are there were written, and no more of them; what is new to them is sent."""
    one, other = put(tmp_path / "one.db", RUN), put(tmp_path / "other.db", RUN)
    learn(other, {2: 60 * MIB})
    learn(one, {1: 50 * MIB})
    push(one, url)
    joined: list[bytes] = []

    def join(newer: bytes, older: bytes) -> bytes:
        joined.append(newer)
        return lives_lines.join(newer, older)

    database = FleetDatabase(url)
    assert database.push_lives(all_lives(one), join) == 0
    assert joined == []
    # Of the same time now, and more than the database has.
    pull(other, url)
    assert database.push_lives(all_lives(other), join) == 1
    joined.clear()
    assert database.push_lives(all_lives(other), join) == 0
    assert joined == []
    pull(tmp_path / "third.db", url)
    assert known_peaks(tmp_path / "third.db") == {1: 50 * MIB, 2: 60 * MIB}


@pytest.mark.parametrize("ahead", ["written_s + 1e6", "'Infinity'", "'NaN'"])
def test_lives_of_a_clock_that_was_ahead_give_way(ahead: str, url: str, server: Postgres, tmp_path: Path) -> None:
    """No pod can make its lives the newest for longer than until the next push, nor write a time yet to come."""
    path = put(tmp_path / "h.db", RUN)
    learn(path, {1: 50 * MIB})
    late = [lives._replace(written_s=lives.written_s + 1e6) for lives in all_lives(path)]
    assert FleetDatabase(url).push_lives(late, lives_lines.join) == 1
    is_past = "SELECT written_s <= extract(epoch FROM now()) FROM memguard_lives"
    assert server.sql(_database(url), is_past) == "t"
    server.sql(_database(url), f"UPDATE memguard_lives SET written_s = {ahead}")
    learn(path, {1: 90 * MIB})
    push(path, url)
    assert server.sql(_database(url), is_past) == "t"
    pull(tmp_path / "other.db", url)
    assert known_peaks(tmp_path / "other.db") == {1: 90 * MIB}


def test_lives_keep_to_their_share_of_the_database(url: str, server: Postgres, tmp_path: Path) -> None:
    """What was written longest ago goes first."""
    path = put(tmp_path / "h.db", RUN)
    for task in ("do_compile", "do_install"):
        learn(path, {unit: MIB for unit in range(1, 400)}, task)
    push(path, url, "--max-samples", "100")
    assert server.sql(_database(url), "SELECT task FROM memguard_lives") == "do_install"


def learn(path: Path, peaks: dict[int, int], task: str = "do_compile") -> None:
    """A build of zlib ends in which units took these peaks."""
    with contextlib.closing(History(path, warn=pytest.fail)) as history:
        lives = Lives.found(history.lives("zlib", task))
        for unit, peak_bytes in peaks.items():
            lives.add(unit, Life(peak_bytes, 2.0, 1.0))
        history.remember_lives("zlib", task, lives.packed())


def all_lives(path: Path) -> list[TaskLives]:
    """What a history knows of single jobs."""
    with contextlib.closing(History(path, warn=pytest.fail, is_read_only=True)) as history:
        return history.all_lives()


def known_peaks(path: Path) -> dict[int, int]:
    """What is known of the units of zlib, up to the tenth."""
    with contextlib.closing(History(path, warn=pytest.fail, is_read_only=True)) as history:
        lives = Lives(history.lives("zlib", "do_compile"))
    return {unit: life.peak_bytes for unit in range(10) if (life := lives.of(unit)) is not None}


def test_a_build_that_goes_on_is_sent_again(url: str, tmp_path: Path) -> None:
    """A push in the middle of a build and one at its end make the whole build."""
    path = put(tmp_path / "h.db", RUN)
    push(path, url)
    put(path, replace(RUN, task="do_install"))
    assert push(path, url).startswith("1 added, 1 known")


def test_an_empty_database_has_nothing_and_is_left_empty(url: str, server: Postgres, tmp_path: Path) -> None:
    """Pulling makes no tables."""
    assert pull(tmp_path / "h.db", url).startswith("0 added, 0 known, 0 bad")
    assert server.sql(_database(url), "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == ""


def _database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def test_only_the_newest_samples_are_pulled(url: str, tmp_path: Path) -> None:
    """A prediction looks at no more than some of them, so no more are brought."""
    path = tmp_path / "many.db"
    for number in range(30):
        put(path, replace(RUN, build=f"b{number:02}"), began_s=1000.0 + number)
    push(path, url)
    pull(tmp_path / "h.db", url)
    assert {sample["build"] for sample in samples(tmp_path / "h.db")} == {f"b{number:02}" for number in range(10, 30)}


def test_many_pods_push_at_once(url: str, server: Postgres, tmp_path: Path) -> None:
    """Pods that end at the same moment, the first that use a database, lose nothing and wait for no one for ever."""
    paths = [
        put(tmp_path / f"{pod}.db", *(replace(RUN, build=f"b{pod}", recipe=f"r{recipe}") for recipe in range(40)))
        for pod in range(3)
    ]
    # The same build from two places, as a pod that is started anew with its cache.
    paths.append(put(tmp_path / "again.db", *(replace(RUN, build="b0", recipe=f"r{recipe}") for recipe in range(50))))

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "history", "push", "--timeout", "60", "--history", str(path), url]
        return subprocess.run(command, env=environment(), capture_output=True, text=True)

    with ThreadPoolExecutor(len(paths)) as pool:
        done = list(pool.map(run, paths))
    assert [one.stderr for one in done] == [""] * len(paths)
    assert server.sql(_database(url), "SELECT name, samples FROM memguard_builds ORDER BY name").split() == [
        "b0|50",
        "b1|40",
        "b2|40",
    ]
    assert server.sql(_database(url), "SELECT count(*) FROM memguard_samples") == "130"


def test_the_bound_forgets_the_oldest_of_the_best_known(url: str, server: Postgres, tmp_path: Path) -> None:
    """As in a file: a task that was run once stays, one that was run a thousand times loses its oldest."""
    path = tmp_path / "h.db"
    many = [format_sample(replace(RUN, build=f"b{number:03}"), 1000.0 + number) for number in range(120)]
    rare = format_sample(replace(RUN, build="b000", recipe="rare"), 1000.0)
    with contextlib.closing(History(path, warn=pytest.fail)) as history:
        history.import_samples([*many, rare])
    said = push(path, url, "--max-samples", "100")
    assert said.startswith("121 added, 0 known, 34 old samples forgotten")
    assert server.sql(_database(url), "SELECT count(*) FROM memguard_samples") == "87"
    assert server.sql(_database(url), "SELECT count(*) FROM memguard_samples WHERE recipe = 'rare'") == "1"
    assert (
        server.sql(
            _database(url),
            "SELECT min(name) FROM memguard_builds JOIN memguard_samples ON id = build WHERE recipe = 'zlib'",
        )
        == "b034"
    )
    # What was forgotten is not sent again.
    assert push(path, url, "--max-samples", "100").startswith("0 added, 121 known, to")


def test_a_database_of_a_newer_memguard_is_left_alone(url: str, server: Postgres, tmp_path: Path) -> None:
    """Its version is named, and nothing is written."""
    path = put(tmp_path / "h.db", RUN)
    push(path, url)
    server.sql(_database(url), "UPDATE memguard_schema SET version = 9")
    for command in ("push", "pull"):
        sentence = refused(memguard("history", command, "--history", str(path), url, cwd=tmp_path))
        assert "has version 9 and was written by a newer memguard" in sentence


def test_samples_that_are_none_are_passed_over(url: str, server: Postgres, tmp_path: Path) -> None:
    """Whoever can write to the database can send nonsense; it reaches neither history nor screen."""
    push(put(tmp_path / "h.db", RUN), url)
    server.sql(
        _database(url),
        """INSERT INTO memguard_samples
        SELECT 1, 'evil', 'do_compile', 7, '{"pn": "\\u001b[2J", "build": "b0"}'::jsonb""",
    )
    assert pull(tmp_path / "other.db", url).startswith("1 added, 0 known, 1 bad")


# -- databases that are none -------------------------------------------------------------------------------------------


def test_a_wrong_password_is_one_sentence_without_it(url: str, tmp_path: Path) -> None:
    """It says what the server says, and not what was tried."""
    path = put(tmp_path / "h.db", RUN)
    wrong = url.replace(QUOTED_PASSWORD, "letmein2026")
    sentence = refused(memguard("history", "push", "--history", str(path), wrong, cwd=tmp_path))
    assert 'password authentication failed for user "..."' in sentence
    assert "letmein2026" not in sentence


def test_a_password_of_the_environment_is_taken(url: str, tmp_path: Path) -> None:
    """It need not stand in the URL."""
    path = put(tmp_path / "h.db", RUN)
    bare = url.replace(f":{QUOTED_PASSWORD}", "")
    assert push(path, bare, PGPASSWORD=PASSWORD).startswith("1 added")


def test_a_database_that_does_not_exist_is_one_sentence(server: Postgres, tmp_path: Path) -> None:
    """The server's own word for it, and no password."""
    sentence = refused(
        memguard("history", "pull", "--history", str(tmp_path / "h.db"), server.url("nowhere"), cwd=tmp_path)
    )
    assert 'database "nowhere" does not exist' in sentence
    assert PASSWORD not in sentence
    assert QUOTED_PASSWORD not in sentence


def test_a_role_that_may_not_write_is_one_sentence(url: str, server: Postgres, tmp_path: Path) -> None:
    """Who may only read is told so when it pushes, and pulls all the same."""
    path = put(tmp_path / "h.db", RUN)
    push(path, url)
    server.sql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'pw-of-reader'")
    server.sql(_database(url), "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reader = server.url(_database(url), "reader", "pw-of-reader")
    assert pull(tmp_path / "other.db", reader).startswith("1 added")
    put(path, replace(RUN, build="b1"))
    assert "permission denied" in refused(memguard("history", "push", "--history", str(path), reader, cwd=tmp_path))


def test_a_dead_server_is_one_sentence(tmp_path: Path) -> None:
    """Nobody listens at the port."""
    with closed_port() as port:
        url = f"postgresql://u:secret@127.0.0.1:{port}/db"
        sentence = refused(memguard("history", "pull", url, cwd=tmp_path))
    assert f"postgresql://127.0.0.1:{port}/db cannot be used" in sentence
    assert "secret" not in sentence
    assert not (tmp_path / "memguard").exists()


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    """A server that accepts and says nothing costs as long as --timeout says, and one sentence."""
    with silent_server() as port:
        url = f"postgresql://u:secret@127.0.0.1:{port}/db"
        done = subprocess.run(
            [*COMMAND, "history", "pull", "--timeout", "0.5", url],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert refused(done) == f"memguard: postgresql://127.0.0.1:{port}/db has said nothing for 0.5 s (--timeout)"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:secret@h/db", "'mysql://h/db' is not a database that memguard knows"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:port/db", "is not a URL"),
        ("postgresql://u:p@secret@h/db", "an @ in the user or password of 'postgresql://h/db' must be written as %40"),
        ("postgresql://u:p@secret/secret@h/db", "must be written as %40"),
        ("/cache/history.db", "is not a database that memguard knows"),
    ],
)
def test_what_is_no_url_is_one_sentence_with_a_good_one(tmp_path: Path, url: str, words: str) -> None:
    """And it never shows the password."""
    sentence = refused(memguard("history", "pull", url, cwd=tmp_path))
    assert words in sentence
    assert "postgresql://memguard@db.example/memguard" in sentence
    assert "secret" not in sentence


def test_without_url_the_configuration_is_asked(tmp_path: Path) -> None:
    """MEMGUARD_HISTORY of the environment, then of local.conf; then a sentence."""
    assert "neither URL nor MEMGUARD_HISTORY" in refused(memguard("history", "pull", cwd=tmp_path))
    (tmp_path / "conf").mkdir()
    line = 'MEMGUARD_HISTORY = "postgresql://u:secret@127.0.0.1:1/db"\n'
    (tmp_path / "conf" / "local.conf").write_text(line, encoding="utf-8")
    assert "127.0.0.1:1/db cannot be used" in refused(memguard("history", "pull", cwd=tmp_path))
    env = {"MEMGUARD_HISTORY": "postgresql://u@127.0.0.1:2/db"}
    assert "127.0.0.1:2/db cannot be used" in refused(memguard("history", "pull", cwd=tmp_path, **env))
    # The other commands go on with the file that the build keeps beside it.
    assert f"{tmp_path}/memguard/history.db does not exist" in refused(memguard("history", cwd=tmp_path))


def test_packages_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Only push and pull need them; who lacks them is told what to install."""
    program = (
        "import sys; sys.modules['sqlalchemy'] = None; from memguard_cli.main import main; "
        f"sys.exit(main(['history', 'pull', '--history', {str(tmp_path / 'h.db')!r}, 'postgresql://h/db']))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert f"{sys.executable} -m pip install 'psycopg[binary]' SQLAlchemy" in refused(done)


def test_no_other_command_of_history_imports_sqlalchemy() -> None:
    """A command that needs no database does not pay for one."""
    program = (
        "import sys; import memguard_cli.commands.history; sys.exit(any('sqlalchemy' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], env=environment()).returncode == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@h/db?password=x", "postgresql://h/db"),
        ("postgresql://u:p@w@h/db", "postgresql://h/db"),
        ("postgresql://u:p@w/x@h/db", "postgresql://h/db"),
        ("postgresql://u:p\n@h/db", "postgresql://h/db"),
        ("postgresql://h/db?password=se@cret", "postgresql://..."),
        ("postgresql://u:se?cret@h/db", "postgresql://..."),
        ("postgresql:/u:secret@h/db", "...h/db"),
        ("host=h dbname=db password=secret user=u", "host=h dbname=db password=..."),
        ("/cache/a:b@c.db", "/cache/a:b@c.db"),
        ("${SSTATE_DIR}/h.db", "${SSTATE_DIR}/h.db"),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    """What is shown of a URL holds neither user nor password nor options."""
    assert without_secrets(text) == shown


@pytest.mark.parametrize("command", ["pull", "push"])
def test_help_shows_an_example(command: str) -> None:
    """Who asks for help sees a line to type."""
    done = subprocess.run([*COMMAND, "history", command, "--help"], env=environment(), capture_output=True, text=True)
    assert f"memguard history {command} postgresql://memguard@db.example/memguard" in done.stdout


def test_the_name_of_a_database_says_where_it_is(server: Postgres) -> None:
    """Host, port and database, and nothing else of the URL."""
    assert FleetDatabase("postgres://u:p@h:5/db").name == "postgresql://h:5/db"
    assert FleetDatabase(server.url("db")).name == f"postgresql://{server.directory}/db"
