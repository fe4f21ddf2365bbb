# SPDX-License-Identifier: MIT
"""The token pool of one task: a FIFO that make, ninja and cargo take their jobs from, grown and shrunk while they run.

Runs in: the sentinel and `memguard run` (Pool, certainly_lost), task children (make_pool); standard library only.
Covers: putting tokens in, taking idle ones out at once and held ones as jobs end, and what clients lose by dying.
Does not cover: who gets how many tokens (regulate); which tools may have a pool (pool_form), and how.

How a token is won from a busy client: a job that ends gives its token back, and its make or ninja takes one again some
microseconds later. Who looks at the FIFO now and then finds it empty. A thread that blocks in read(2), on an open file
description of its own since make sets O_NONBLOCK on the one that it shares, is woken by the write itself and has the
byte before it needs the interpreter. It is one thread for each pool that ever owed more than was idle. It wins some of
the tokens, not each: of make's half to nine tenths, of ninja's a third to a half, fewer the busier the CPUs are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import termios
import threading
from collections.abc import Sequence
from pathlib import Path

# What make writes. Clients give back the byte they took, and count no kinds.
TOKEN = b"+"
# Linux's numbers; the fcntl module has them from Python 3.10 on.
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
# sched_setattr(2), by machine; the os module does not have it.
_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
_SLICE_NS = 100_000  # the shortest there is
# In a pipe of a single page, what is read makes no room until the page is empty: jobs that come and go would fill it.
_LEAST_CAPACITY_BYTES = 8192


def make_pool(path: str) -> None:
    """Make the FIFO of a pool, without tokens, for its owner alone. Raises OSError, also where `path` exists."""
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.mkfifo(path, 0o600)


class Pool:
    """The tokens of one task, as many as `set_tokens` last said, once the jobs that are too many have ended.

    Besides the tokens each client has one job of its own: a pool of n tokens and one client are n + 1 jobs.

    Clients find no tokens any more when nobody has the FIFO open: the task's own child must keep it open, too, so that
    a sentinel that dies leaves the tokens behind.
    """

    def __init__(self, path: str) -> None:
        """Open the pool of a task, which has no tokens yet. Raises OSError, also where `path` is no FIFO."""
        self.path = path
        self._target = 0
        self._issued = 0
        self._is_closed = False
        # Guards all of these and the descriptor; notified when something is owed, or the pool is closed.
        self._owing = threading.Condition()
        self._collector: threading.Thread | None = None
        # For reading and writing, so that it neither waits for a client nor ends with one.
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(self._file)
            if not stat.S_ISFIFO(found.st_mode):
                raise OSError(errno.EINVAL, "is not a FIFO", path)
            self._identity = (found.st_dev, found.st_ino)
            # A client that gives a token back must never find the FIFO full.
            self._most = _room_bytes(self._file, path) // 2
        except BaseException:
            os.close(self._file)
            raise

    @property
    def target(self) -> int:
        """The tokens there should be."""
        return self._target

    @property
    def issued(self) -> int:
        """Tokens put in and not taken out again: idle ones, held ones, and those that dead clients held."""
        return self._issued

    @property
    def owed(self) -> int:
        """Tokens that are held and will be taken out as jobs end."""
        return max(0, self._issued - self._target)

    @property
    def idle(self) -> int:
        """Tokens in the FIFO, which nobody has taken."""
        with self._owing:
            return self._count_idle()

    @property
    def held(self) -> int:
        """Tokens that clients have taken: each stands for a running job, unless its client died."""
        with self._owing:
            return max(0, self._issued - self._count_idle())

    def set_tokens(self, tokens: int) -> None:
        """Make them `tokens`: missing ones are put in at once, idle ones taken out at once, held ones as jobs end.

        Costs two system calls where nothing changes; calling it at each look also takes out what a client made up.
        """
        with self._owing:
            self._target = max(0, min(tokens, self._most))
            self._settle()

    def adopt(self, tokens: int) -> None:
        """Take charge of a pool that has `tokens` already, idle and held ones, from a regulator that is gone."""
        with self._owing:
            self._issued = self._target = max(0, min(tokens, self._most))

    def reissue(self, lost: int) -> None:
        """Put in anew `lost` tokens that clients had when they died (see certainly_lost)."""
        with self._owing:
            self._issued -= max(0, min(lost, self._issued - self._count_idle()))
            self._settle()

    def close(self, unlink: bool = True) -> None:
        """Let go of the FIFO, and remove it. Its tokens end when the last of the task's processes has closed it."""
        with self._owing:
            if self._is_closed:
                return
            self._is_closed = True
            self._target = self._issued = 0
            # The last writer that closes ends a blocking read: the collector does not outlive the task's processes.
            os.close(self._file)
            self._owing.notify()
        if unlink:
            with contextlib.suppress(OSError):
                fifo = Path(self.path)
                found = fifo.lstat()
                # Whatever else is there now is none of ours.
                if (found.st_dev, found.st_ino) == self._identity:
                    fifo.unlink()

    def _settle(self) -> None:
        """Bring the FIFO towards the target."""
        if self._is_closed:
            return
        # A client that gives back more than it took has made tokens; they count, and are too many.
        self._issued = max(self._issued, self._count_idle())
        if self._issued < self._target:
            with contextlib.suppress(BlockingIOError):
                self._issued += os.write(self._file, TOKEN * (self._target - self._issued))
        elif self.owed:
            with contextlib.suppress(BlockingIOError):
                self._issued -= len(os.read(self._file, self.owed))
            if self.owed:
                self._collect()

    def _count_idle(self) -> int:
        if self._is_closed:
            return 0
        count = fcntl.ioctl(self._file, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", count)[0])

    def _collect(self) -> None:
        """Have the collector take what is owed."""
        if self._collector is None or not self._collector.is_alive():
            # Through the open file rather than by its name: that may stand for something else by now.
            blocking = os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY | os.O_CLOEXEC)
            # Daemon: a read that no job's end has answered yet must not keep the process from ending.
            self._collector = threading.Thread(target=self._take_owed, args=(blocking,), daemon=True)
            try:
                self._collector.start()
            except RuntimeError:
                # No more threads may be started just now: what is owed is taken where a look finds it idle.
                os.close(blocking)
        self._owing.notify()

    def _take_owed(self, blocking: int) -> None:
        """The collector: take one token after the other while some are owed.

        A debt may be forgiven while it waits for a job to end. It then goes on waiting, and gives back at once the one
        token that it takes: no token is written only to wake it, which a client could take, too.
        """
        _be_woken_first()
        try:
            while True:
                with self._owing:
                    self._owing.wait_for(lambda: self._is_closed or self.owed)
                    if self._is_closed:
                        return
                token = os.read(blocking, 1)
                with self._owing:
                    if self._is_closed or not token:
                        return
                    if self.owed:
                        self._issued -= 1
                    else:
                        os.write(self._file, token)
        except OSError:
            return  # the next one that is owed starts another
        finally:
            os.close(blocking)


def _be_woken_first() -> None:
    """Ask for short slices of CPU for this thread: from Linux 6.12 on, such a thread need not wait for others' to end.

    Anybody may ask. With busy CPUs it wins twice to three times as many of ninja's tokens.
    """
    number = _SYS_SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return
    with contextlib.suppress(Exception):
        import ctypes  # only now: it takes memory, and few pools need it

        # struct sched_attr: size, policy (SCHED_OTHER), flags, nice, priority, runtime, deadline, period
        attributes = struct.pack("IIQiIQQQ", 48, 0, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, _SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def _room_bytes(file: int, path: str) -> int:
    """What the FIFO holds, in bytes. Raises OSError where it is too small to be used for long."""
    room_bytes = fcntl.fcntl(file, _F_GETPIPE_SZ)
    if room_bytes < _LEAST_CAPACITY_BYTES:
        # A user with very many pipes gets small ones; kernels before 5.14 gave a single page then.
        room_bytes = fcntl.fcntl(file, _F_SETPIPE_SZ, _LEAST_CAPACITY_BYTES)
    if room_bytes < _LEAST_CAPACITY_BYTES:
        raise OSError(errno.ENOSPC, f"holds {room_bytes} bytes, too few for a pool of tokens", path)
    return room_bytes


def certainly_lost(looks: Sequence[tuple[int, int]], least_looks: int = 3) -> int:
    """How many tokens died with their clients, from the last looks at (tokens held, workers); 0 where in doubt.

    A held token stands for a job that runs, and each job has at least one process without children of its own (a
    zombie counts: its client has not given its token back yet) or, in rustc, one thread. So what is held beyond the
    workers belongs to nobody. As processes come and go while they are counted, the least held of all looks is set
    against the most workers of any: short jobs hide a loss for a while rather than feign one.

    workers: such processes of the task, and the threads of each rustc and cargo. May be counted too high, never too
             low. The job that a client runs without a token is among them, which may hide one lost token.
    """
    if len(looks) < least_looks:
        return 0
    return max(0, min(held for held, _ in looks) - max(workers for _, workers in looks))
