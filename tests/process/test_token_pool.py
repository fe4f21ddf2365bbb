# SPDX-License-Identifier: MIT
"""Token pools: by themselves, and under real make, ninja, cargo and gcc."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from memguard.act.token_pool import TOKEN, Pool, certainly_lost, make_pool
from memguard.decide.pool_form import Choice, Form, flags
from testbed.jobs import Jobs, NotHere, find_make, find_ninja, write_makefile, write_ninja


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool without clients, of which nothing is left at the end."""
    before = threading.active_count()
    make_pool(f"{tmp_path}/pools/task")
    made = Pool(f"{tmp_path}/pools/task")
    yield made
    made.close()
    wait_until(lambda: threading.active_count() == before)
    assert list((tmp_path / "pools").iterdir()) == []


@pytest.fixture
def client(pool: Pool) -> Iterator[int]:
    """What a client has of the pool: an open file description of its own."""
    file = os.open(pool.path, os.O_RDWR | os.O_NONBLOCK)
    yield file
    os.close(file)


def wait_until(holds: object) -> None:
    """Wait for something that another thread does."""
    assert callable(holds)
    until_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def waits(pool: Pool, place: str) -> bool:
    """Whether the pool's collector sleeps in this function of the kernel: pipe_read for a token, futex for a debt."""
    collector = pool._collector
    if collector is None or collector.native_id is None:
        return False
    return place in Path(f"/proc/self/task/{collector.native_id}/wchan").read_text()


def test_a_new_pool_has_no_tokens(pool: Pool) -> None:
    """Who has made a pool has not given anything away yet, and only its owner may open it."""
    assert (pool.issued, pool.idle, pool.held, pool.owed) == (0, 0, 0, 0)
    assert Path(pool.path).stat().st_mode & 0o777 == 0o600


def test_idle_tokens_come_and_go_at_once(pool: Pool) -> None:
    """What nobody has taken is put in and taken out by the call itself."""
    for tokens in (5, 2, 2, 9, 0):
        pool.set_tokens(tokens)
        assert (pool.idle, pool.issued, pool.owed) == (tokens, tokens, 0)
    assert pool._collector is None


def test_held_tokens_are_taken_as_they_come_back(pool: Pool, client: int) -> None:
    """A pool shrinks by the tokens of jobs that end, no matter whether its client wants them again."""
    pool.set_tokens(4)
    taken = os.read(client, 4)
    pool.set_tokens(1)
    assert (pool.held, pool.owed) == (4, 3)
    for owed in (2, 1, 0):
        os.write(client, taken[:1])
        wait_until(lambda left=owed: pool.owed == left)
    os.write(client, taken[:1])
    assert (pool.held, pool.idle) == (0, 1)


def test_a_debt_that_is_forgiven_takes_nothing(pool: Pool, client: int) -> None:
    """Where memory comes back before a job ends, the token that the waiting thread catches goes back."""
    pool.set_tokens(2)
    taken = os.read(client, 2)
    pool.set_tokens(1)
    wait_until(lambda: waits(pool, "pipe_read"))
    pool.set_tokens(2)
    os.write(client, taken)
    wait_until(lambda: waits(pool, "futex") and pool.idle == 2)
    assert (pool.issued, pool.held, pool.owed) == (2, 0, 0)


def test_a_pool_grows_while_its_thread_waits(pool: Pool, client: int) -> None:
    """Tokens put in for a client end with the client, although the thread waits for one, too."""
    pool.set_tokens(1)
    os.read(client, 1)
    pool.set_tokens(0)
    wait_until(lambda: waits(pool, "pipe_read"))
    pool.set_tokens(4)
    # The thread catches one of them and gives it back before it waits for the next debt.
    wait_until(lambda: waits(pool, "futex") and pool.idle == 3)
    assert (pool.issued, pool.held) == (4, 1)


def test_tokens_of_any_kind_count(pool: Pool, client: int) -> None:
    """Clients give back the byte that they took, whatever it is; and what goes back after a debt is that byte."""
    pool.set_tokens(1)
    os.read(client, 1)
    pool.set_tokens(0)
    wait_until(lambda: waits(pool, "pipe_read"))
    pool.set_tokens(1)
    os.write(client, b"x")
    wait_until(lambda: waits(pool, "futex") and pool.idle == 1)
    assert os.read(client, 1) == b"x"


def test_tokens_that_a_client_made_up_are_taken(pool: Pool, client: int) -> None:
    """Who gives back more than he took does not raise the number of jobs for long."""
    pool.set_tokens(3)
    os.write(client, TOKEN * 50)
    pool.set_tokens(3)
    assert (pool.idle, pool.issued) == (3, 3)


def test_lost_tokens_are_put_in_again(pool: Pool, client: int) -> None:
    """What a dead client held is replaced; what turns out not to be lost is too many, and taken."""
    pool.set_tokens(3)
    taken = os.read(client, 3)
    pool.reissue(2)
    assert (pool.idle, pool.held, pool.issued) == (2, 1, 3)
    os.write(client, taken)
    pool.set_tokens(3)
    assert (pool.idle, pool.issued) == (3, 3)


def test_idle_tokens_are_never_lost(pool: Pool) -> None:
    """Tokens that are there are not replaced, whatever the caller thinks."""
    pool.set_tokens(3)
    pool.reissue(2)
    assert (pool.idle, pool.issued) == (3, 3)


def test_there_is_always_room_to_give_back(pool: Pool, client: int) -> None:
    """However many tokens are asked for, a client that gives one back never finds the FIFO full."""
    pool.set_tokens(10**9)
    assert 1000 < pool.issued == pool.idle == pool.target
    for _ in range(2 * pool.issued):
        assert os.write(client, os.read(client, 1)) == 1
    pool.set_tokens(-1)
    assert pool.idle == 0


def test_a_small_fifo_works_or_is_refused(tmp_path: Path) -> None:
    """Where pipes are so small that coming and going jobs would fill one, it is made larger."""
    path = f"{tmp_path}/small"
    make_pool(path)
    keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    assert fcntl.fcntl(keeper, 1031, 4096) == 4096
    pool = Pool(path)
    pool.set_tokens(4)
    for _ in range(10000):
        assert os.write(keeper, os.read(keeper, 1)) == 1
    assert pool.idle == 4
    pool.close()
    os.close(keeper)


def test_what_is_no_fifo_is_no_pool(tmp_path: Path) -> None:
    """A file, a link, a directory or nothing in the FIFO's place is refused and left as it is."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    wrong = {"file": errno.EINVAL, "link": errno.ELOOP, "nothing": errno.ENOENT, "folder": errno.EISDIR}
    for name, number in wrong.items():
        with pytest.raises(OSError, match=name) as refused:
            Pool(f"{tmp_path}/{name}")
        assert refused.value.errno == number
    assert (tmp_path / "file").read_bytes() == b"mine"
    with pytest.raises(FileExistsError):
        make_pool(f"{tmp_path}/file")


def test_only_the_pools_own_fifo_is_removed(tmp_path: Path) -> None:
    """What has taken the FIFO's place meanwhile is not touched, not even by the thread that is started later."""
    path = tmp_path / "task"
    make_pool(str(path))
    pool = Pool(str(path))
    client = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    pool.set_tokens(1)
    taken = os.read(client, 1)
    path.unlink()
    path.write_bytes(b"mine")
    pool.set_tokens(0)
    os.write(client, taken)
    wait_until(lambda: pool.issued == 0)
    os.close(client)
    pool.close()
    assert path.read_bytes() == b"mine"


def test_a_closed_pools_thread_ends_with_the_clients(tmp_path: Path) -> None:
    """The thread that waits for a token ends when the last process of the task lets go of the FIFO."""
    make_pool(f"{tmp_path}/task")
    pool = Pool(f"{tmp_path}/task")
    client = os.open(pool.path, os.O_RDWR | os.O_NONBLOCK)
    pool.set_tokens(1)
    os.read(client, 1)
    pool.set_tokens(0)
    wait_until(lambda: waits(pool, "pipe_read"))
    collector = pool._collector
    assert collector is not None
    pool.close()
    pool.close()
    assert not Path(pool.path).exists()
    assert collector.is_alive()
    assert (pool.idle, pool.held) == (0, 0)
    pool.set_tokens(5)
    os.close(client)
    collector.join(20)
    assert not collector.is_alive()


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        ([], 0),
        ([(7, 1), (7, 1)], 0),
        ([(7, 1)] * 3, 6),
        ([(7, 7)] * 3, 0),
        ([(3, 9)] * 3, 0),
        ([(7, 2), (7, 6), (7, 3)], 1),
        ([(7, 2), (2, 1), (7, 2)], 0),
    ],
)
def test_loss_is_claimed_only_where_it_is_certain(looks: list[tuple[int, int]], lost: int) -> None:
    """The least held of all looks against the most workers of any; too few looks claim nothing."""
    assert certainly_lost(looks) == lost


# -- real clients -----------------------------------------------------------------------------------------------------

# Client, and how it is told of its pool; ninja knows FIFOs only.
CLIENTS = ("make pipe", "make 4.4 pipe", "make 4.4 fifo", "ninja fifo")


class Bench:
    """A pool, jobs that count themselves, and clients that run them."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.pool, self.jobs, self.directory = pool, Jobs(directory), directory

    def start(self, client: str, folder: str = ".", extra: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Start a client in a session of its own. Skips where it cannot be had."""
        name, form = client.rpartition(" ")[::2]
        try:
            program = {"make": lambda: Path("make"), "make 4.4": find_make, "ninja": find_ninja}[name]()
        except NotHere as missing:
            pytest.skip(str(missing))
        ends: list[int] = []
        if form == "pipe":
            ends = [os.open(self.pool.path, mode) for mode in (os.O_RDONLY, os.O_WRONLY)]
        told = flags(Choice(Form(form), ""), 16, self.pool.path, (ends[0], ends[1]) if ends else None)
        try:
            return subprocess.Popen(
                [str(program)],
                cwd=self.directory / folder,
                env={**os.environ, "MAKEFLAGS": told or "", **extra},
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=(self.directory / "output").open("ab"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            for end in ends:
                os.close(end)

    def write(self, client: str, milliseconds: int, count: int) -> None:
        """The build file of a client."""
        command = self.jobs.command(milliseconds)
        if client.startswith("make"):
            write_makefile(self.directory, command, count)
        else:
            write_ninja(self.directory, [command] * count)


@pytest.fixture
def bench(pool: Pool, tmp_path: Path) -> Bench:
    """A pool and jobs."""
    return Bench(pool, tmp_path)


def end(*clients: subprocess.Popen[bytes]) -> None:
    """Kill what a client has started, and wait for it."""
    for client in clients:
        kill_session(client)
        client.wait()


def kill_session(client: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a client and then all of its jobs, which ninja puts into process groups of their own."""
    client.kill()
    while found := members(client):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()


def members(client: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What runs of a client's session, itself included; no zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == client.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers(client: subprocess.Popen[bytes]) -> int:
    """Processes of a client's session without children there, itself left out."""
    found = members(client)
    parents = set()
    for process in found:
        with contextlib.suppress(psutil.Error):
            parents.add(process.ppid())
    return sum(process.pid not in parents and process.pid != client.pid for process in found)


@pytest.mark.parametrize("client", CLIENTS)
def test_jobs_rise_and_fall_with_the_tokens(bench: Bench, client: str) -> None:
    """A client runs one job more than there are tokens, at once where they rise, and as jobs end where they fall."""
    pool, jobs = bench.pool, bench.jobs
    bench.write(client, 150, 5000)
    running = bench.start(client)
    try:
        for tokens in (0, 7, 2, 5, 0, 3):
            pool.set_tokens(tokens)
            wait_until(lambda: pool.owed == 0)
            wait_until(lambda want=tokens + 1: jobs.running == want)
            # From here on none may be one too many.
            since, began = jobs.length, jobs.began
            wait_until(lambda more=began + 3 * (tokens + 1): jobs.began > more)
            assert jobs.most(since) == tokens + 1
        assert b"warning" not in (bench.directory / "output").read_bytes()
    finally:
        end(running)


@pytest.mark.parametrize("client", CLIENTS)
def test_no_token_is_lost_over_thousands_of_jobs(bench: Bench, client: str) -> None:
    """While thousands of jobs that do nothing come and go, tokens are put in and taken out all the time."""
    pool, chance, count = bench.pool, random.Random(client), 2500
    if client.startswith("make"):
        write_makefile(bench.directory, "true", count)
    else:
        write_ninja(bench.directory, ["true"] * count)
    running = bench.start(client)
    changes = 0
    while running.poll() is None:
        pool.set_tokens(chance.randrange(12))
        changes += 1
        time.sleep(chance.random() / 50)
    assert running.returncode == 0
    assert changes > 10
    pool.set_tokens(6)
    wait_until(lambda: pool.owed == 0)
    assert (pool.issued, pool.idle, pool.held) == (6, 6, 0)


@pytest.mark.parametrize(("client", "kills"), [("make pipe", 70), ("make 4.4 fifo", 65), ("ninja fifo", 65)])
def test_tokens_of_killed_clients_come_back(bench: Bench, client: str, kills: int) -> None:
    """SIGKILL at random, to clients with and without their jobs and to jobs alone: no token is missing afterwards."""
    pool, chance, lost_in_all = bench.pool, random.Random(client), 0
    bench.write(client, 20, 1000)
    pool.set_tokens(6)
    for kill in range(kills):
        began = bench.jobs.began
        running = bench.start(client)
        if kill % 2:  # on a slow machine nobody would have taken a token yet
            wait_until(lambda began=began: bench.jobs.began > began)
        time.sleep(chance.random() / 15)
        victims = members(running)
        kind = chance.choice(("client", "session", "job"))
        if kind == "job" and len(victims) > 1:
            with contextlib.suppress(psutil.Error):
                chance.choice([victim for victim in victims if victim.pid != running.pid]).kill()
            time.sleep(0.02)
        if kind == "client":
            running.kill()
            running.wait()
            wait_until(lambda client=running: not members(client))
        end(running)
        # Nothing of the task runs any more: what is held is lost.
        lost = certainly_lost([(pool.held, 0)] * 3)
        lost_in_all += lost
        pool.reissue(lost)
        pool.set_tokens(6)
        assert (pool.issued, pool.idle, pool.held) == (6, 6, 0)
    assert lost_in_all > 0


def test_a_killed_compiler_loses_no_token(bench: Bench) -> None:
    """make gives back the token of a job that was killed, since it is not dead itself."""
    write_makefile(bench.directory, f"-exec {bench.jobs.command(60000)}", 30)
    bench.pool.set_tokens(3)
    running = bench.start("make pipe")
    try:
        wait_until(lambda: bench.jobs.running == 4)
        for victim in members(running):
            if victim.pid != running.pid:
                victim.kill()
        wait_until(lambda: bench.jobs.began == 8)
        assert (bench.pool.held, bench.pool.issued) == (3, 3)
    finally:
        end(running)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_dies_with_all_tokens_blocks_nobody(bench: Bench, client: str) -> None:
    """Another goes on with its own job, and once the loss is certain with more; who waits for a token gets one."""
    pool, jobs = bench.pool, bench.jobs
    pool.set_tokens(5)
    bench.write(client, 600_000, 10)
    first = bench.start(client)
    wait_until(lambda: jobs.running == 6)
    end(first)
    assert pool.held == 5
    bench.write(client, 100, 10_000)
    second = bench.start(client)
    waiting = subprocess.Popen(["head", "-c", "1", pool.path], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: jobs.began == 6 + 5)
        assert jobs.most(12) == 6 + 1
        looks: deque[tuple[int, int]] = deque(maxlen=5)

        def has_most_of_them() -> bool:
            looks.append((pool.held, workers(second) + (waiting.poll() is None)))
            lost = certainly_lost(looks, 5)
            if lost:
                pool.reissue(lost)
                looks.clear()
            # Five of its own and of the waiting one's, less the one that the job without a token may hide.
            return jobs.running - 6 >= 4

        wait_until(has_most_of_them)
        waiting.wait(20)
        assert jobs.most(12) - 6 <= 6
    finally:
        waiting.kill()
        waiting.wait()
        end(second)


def nest(bench: Bench, outer: str, inner: str, make: str) -> None:
    """Build files of a client that calls others in three folders, each with 40 jobs."""
    job = bench.jobs.command(50, at_once=5)
    for folder in ("a", "b", "c"):
        if inner == "make":
            write_makefile(bench.directory / folder, job, 40)
        else:
            write_ninja(bench.directory / folder, [job] * 40)
    call = {"make": make, "ninja": "ninja"}[inner]
    if outer == "make":
        rules = "".join(f"job{number}:\n\t+@{call} -C {folder}\n" for number, folder in enumerate("abc"))
        write_makefile(bench.directory, "true", 3, rules)
    else:
        write_ninja(bench.directory, [f"{call} -C {folder}" for folder in "abc"])


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("make pipe", "make"),
        ("make 4.4 fifo", "make"),
        ("make 4.4 fifo", "ninja"),
        ("ninja fifo", "make"),
        ("ninja fifo", "ninja"),
    ],
)
def test_clients_within_clients_share_the_pool(bench: Bench, outer: str, inner: str) -> None:
    """However they call each other, there is one job more than there are tokens, and none is lost."""
    try:
        search = f"{find_make().parent}:{find_ninja().parent}:{os.environ['PATH']}"
    except NotHere as missing:
        pytest.skip(str(missing))
    nest(bench, outer.split()[0], inner, "make" if outer == "ninja fifo" else "$(MAKE)")
    bench.pool.set_tokens(4)
    running = bench.start(outer, extra={"PATH": search} if outer != "make pipe" else {})
    try:
        assert running.wait(120) == 0
    finally:
        end(running)
    assert bench.jobs.began == 120
    assert bench.jobs.most() == 5
    assert (bench.pool.idle, bench.pool.held) == (4, 0)
    assert b"arning" not in (bench.directory / "output").read_bytes()


RUSTC = """\
#!/bin/sh
case "$*" in *"--crate-name part"*) ;; *) exec "$@";; esac
"$JOB" "$JOB_LOG" 300 5 && exec "$@"
"""


@pytest.mark.parametrize("form", ["fifo", "pipe"])
def test_cargo_takes_its_jobs_from_the_pool(bench: Bench, form: str) -> None:
    """Its own number of jobs says nothing beside a pool; CARGO_MAKEFLAGS alone is enough for it, in either form."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("there is no cargo on this machine")
    if subprocess.run([cargo, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("cargo is rustup's here, and this home has no toolchain for it")
    pool, directory, parts = bench.pool, bench.directory, range(16)
    for number in parts:
        source = directory / f"part{number}" / "src"
        source.mkdir(parents=True)
        manifest = f'[package]\nname = "part{number}"\nversion = "0.1.0"\nedition = "2021"\n'
        (source.parent / "Cargo.toml").write_text(manifest, encoding="ascii")
        (source / "lib.rs").write_text("pub fn part() {}\n", encoding="ascii")
    members = ", ".join(f'"part{number}"' for number in parts)
    (directory / "Cargo.toml").write_text(f'[workspace]\nresolver = "2"\nmembers = [{members}]\n', encoding="ascii")
    wrapper = directory / "rustc"
    wrapper.write_text(RUSTC, encoding="ascii")
    wrapper.chmod(0o755)
    ends = [os.open(pool.path, mode) for mode in (os.O_RDONLY, os.O_WRONLY)] if form == "pipe" else []
    told = flags(Choice(Form(form), ""), 16, pool.path, (ends[0], ends[1]) if ends else None)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CARGO_")},
        "CARGO_MAKEFLAGS": told or "",
        "CARGO_BUILD_JOBS": "2",
        "RUSTC_WRAPPER": str(wrapper),
        "JOB": str(bench.jobs.program),
        "JOB_LOG": str(bench.jobs.log),
    }
    pool.set_tokens(4)
    command = [cargo, "build", "--offline", "--quiet"]
    try:
        subprocess.run(command, cwd=directory, env=environment, pass_fds=ends, check=True, timeout=300)
    finally:
        for file in ends:
            os.close(file)
    assert bench.jobs.began == len(parts)
    assert bench.jobs.most() == 5
    assert (pool.idle, pool.held) == (4, 0)


@pytest.mark.parametrize(("client", "plus"), [("make pipe", "+"), ("make pipe", ""), ("make 4.4 fifo", "")])
def test_gcc_links_with_the_jobs_of_the_pool(bench: Bench, client: str, plus: str) -> None:
    """gcc's parallel link calls make: as a client where it can, else with as many jobs as CPUs, as without a pool.

    A pipe is handed on under rules that begin with + only; FIFOs are known from gcc 13 on.
    """
    told = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True).stdout
    directory, seen = bench.directory, bench.directory / "seen"
    for number in range(4):
        (directory / f"f{number}.c").write_text(f"int f{number}(int x) {{ return x * {number}; }}\n", encoding="ascii")
    called = "".join(f"int f{number}(int); " for number in range(4)), " + ".join(f"f{number}(1)" for number in range(4))
    (directory / "f4.c").write_text(f"{called[0]}int main() {{ return {called[1]}; }}\n", encoding="ascii")
    objects = " ".join(f"f{number}.o" for number in range(5))
    compiler = "gcc -O1 -flto=auto -flto-partition=1to1"
    (directory / "Makefile").write_text(
        f"program: {objects}\n\t{plus}{compiler} -o $@ $^\n%.o: %.c\n\t{compiler} -c $<\n", encoding="ascii"
    )
    spy = directory / "spy"
    spy.write_text(f'#!/bin/sh\necho "$* MAKEFLAGS=$MAKEFLAGS" >> {seen}\nunset MAKE\nexec make "$@"\n')
    spy.chmod(0o755)
    bench.pool.set_tokens(2)
    running = bench.start(client, extra={"MAKE": str(spy)})
    try:
        assert running.wait(120) == 0, (directory / "output").read_text()
    finally:
        end(running)
    (link,) = (line for line in seen.read_text().splitlines() if line.startswith("-f "))
    is_client = int(told.split(".")[0]) >= 13 if client.endswith("fifo") else plus == "+"
    assert ("--jobserver-auth=" in link) == is_client
    assert bool(re.search(r" -j\d", link.partition("MAKEFLAGS")[0])) != is_client
    assert (bench.pool.idle, bench.pool.held) == (2, 0)
