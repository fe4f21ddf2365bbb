# SPDX-License-Identifier: MIT
"""Token pools by themselves: what is put in, taken out and given back; tests with real make and ninja follow below."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memguard.jobserver import TOKEN, Pool, certainly_lost, make_pool


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
    until_s = time.monotonic() + 20
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
    wait_until(lambda: pool.idle == 3)
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
