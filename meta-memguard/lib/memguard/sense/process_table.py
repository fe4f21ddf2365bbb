# SPDX-License-Identifier: MIT
"""The memory of each task's process tree, out of one pass over /proc.

Runs in: the sentinel and `memguard run`, several times a second; standard library only. Of the root only numbers are
entered.
Covers: which processes there are, and whose each is.
Does not cover: reading a process's files (process_reader), what counts of its memory (process_tree, walks), and what
lives and dies between two scans.

Whose a process is: BitBake's task is the leader of a session. A process belongs to a task while its session is the
task's, or when it was started with MEMGUARD_TASK=<mark of the task> in its environment; once a task's, it stays so
until it ends, whatever session it moves to. All others are nobody's. A mark can be copied: it counts where the user is
the task's leader's, and the memory cgroup the leader's or below it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from memguard.sense.origin import read_origin
from memguard.sense.proc_files import MARK_IS, TICKS_PER_S, ProcessId, age_of, read_file
from memguard.sense.process_reader import ProcessReader
from memguard.sense.process_tree import Process, Tree, Usage
from memguard.sense.walks import Walks

# Scans from one look at a process that is nobody's to the next.
_STRANGER_EVERY = 64
# A process this young may be about to call setsid or exec: that it is nobody's is not believed yet.
_YOUNG_S = 2.0

Key = TypeVar("Key", bound=Hashable)


class ProcessTable:
    """Knows the processes below /proc from scan to scan, so that each scan reads little.

    clock: seconds since boot, suspension included, as start times are.
    """

    def __init__(self, root: Path = Path("/proc"), clock: Callable[[], float] | None = None) -> None:
        self._root = str(root)
        self._clock = clock or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._reader = ProcessReader(self._root)
        self._walks = Walks(self._reader)
        self._known: dict[str, Process] = {}
        self._not_pids: set[str] = set()
        self._young: list[str] = []
        self._is_own = (root / "self").is_symlink() and str((root / "self").readlink()) == str(os.getpid())
        self._last_pid = b""
        self._trees: dict[ProcessId, Tree] = {}
        self._by_session: dict[int, Tree] = {}
        self._by_mark: dict[bytes, Tree] = {}
        self._scans = 0

    def scan(self, tasks: Mapping[Key, ProcessId], is_thorough: bool = False) -> dict[Key, Usage]:
        """What each task uses now; a task without processes uses nothing. Never raises for what /proc holds.

        is_thorough: also the CPU time of all processes; of those that do not grow it is else some seconds old.
        """
        now_s = self._clock()
        self._scans += 1
        self._take_tasks(tasks.values(), now_s)
        self._list(now_s)
        self._reader.measure_all(self._trees.values(), self._scans, is_thorough)
        usages = {leader: tree.usage(now_s) for leader, tree in self._trees.items()}
        walked = self._walks.walk(self._trees.values(), now_s)
        if walked:
            usages[walked.leader] = walked.usage(now_s)
        return {key: usages[ProcessId(*leader)] for key, leader in tasks.items()}

    def members(self, leader: ProcessId) -> list[ProcessId]:
        """The processes of a task by pid and start time, as of the last scan, the task's own included."""
        tree = self._trees.get(leader)
        return [ProcessId(process.pid, process.start_ticks) for process in tree.members.values()] if tree else []

    def close(self) -> None:
        """Close all files; the table is as new afterwards."""
        for process in list(self._known.values()):
            self._drop(process)
        self._trees.clear()

    def _take_tasks(self, leaders: Iterable[ProcessId], now_s: float) -> None:
        """Make the trees those of `leaders`: what belonged to others is nobody's, what was nobody's may be theirs."""
        wanted = {ProcessId(*leader) for leader in leaders}
        if wanted == self._trees.keys():
            return
        for leader in self._trees.keys() - wanted:
            for process in self._trees.pop(leader).members.values():
                process.tree = None
                self._reader.close(process)
        for leader in wanted - self._trees.keys():
            self._trees[leader] = Tree(leader, now_s, read_origin(self._root, leader.pid))
        self._by_session = {leader.pid: tree for leader, tree in self._trees.items()}
        self._by_mark = {MARK_IS + leader.mark.encode(): tree for leader, tree in self._trees.items()}
        for process in self._known.values():
            if process.tree is None:
                self._join(process)

    def _list(self, now_s: float) -> None:
        """Forget who is gone, and meet who is new."""
        known = self._known
        names = self._names()
        found_gone = self._reader.take_gone()
        gone_names = found_gone if names is None else found_gone | (known.keys() - names)
        gone = [known[name] for name in gone_names if name in known]
        for process in gone:
            process.is_gone = True
        for process in gone:
            self._keep_cpu(process)
        for process in gone:
            self._drop(process)
        # Who is nobody's is met again: while young, since it may be about to call setsid or exec, and now and then.
        again = set(known if self._scans % _STRANGER_EVERY == 0 else self._young)
        again = {name for name in again if name in known and known[name].tree is None}
        for name in again:
            del known[name]
        self._young = []
        new = again if names is None else names - known.keys() - self._not_pids
        # By number, since parents mostly have the lower pid.
        for name in sorted(new, key=lambda name: (len(name), name)):
            if name.isascii() and name.isdigit():
                self._meet(Process(int(name)), now_s)
            else:
                self._not_pids.add(name)

    def _names(self) -> set[str] | None:
        """The names in /proc; None where nobody was forked or found gone since last time, or it cannot be listed."""
        if self._is_own:
            # The last field is the last pid given in this process's pid namespace, which is that of its own /proc.
            last_pid = read_file(f"{self._root}/loadavg") or b""
            last_pid = last_pid.rpartition(b" ")[2]
            if last_pid and last_pid == self._last_pid and not self._reader.gone:
                return None
            self._last_pid = last_pid
        try:
            return set(os.listdir(self._root))  # noqa: PTH208  (names alone, in a third of the time)
        except OSError:
            self._last_pid = b""
            return None

    def _meet(self, process: Process, now_s: float) -> None:
        """Get to know a new process; one that is gone already is passed over."""
        self._reader.meet(process)
        if process.is_gone:
            self._reader.close(process)
            return
        self._known[str(process.pid)] = process
        if process.start_ticks >= 0:
            self._join(process)
        if process.tree is None:
            self._reader.close(process)
            if age_of(process.start_ticks, now_s) < _YOUNG_S:
                self._young.append(str(process.pid))

    def _join(self, process: Process) -> None:
        """Make a process that is nobody's a member of its task, if it has one."""
        led = self._by_session.get(process.pid)
        if led is not None and led.leader.start_ticks != process.start_ticks:
            # The leader is gone, and whoever got its pid may make a session of the same number.
            led.is_pid_reused = True
            led = None
        tree = led or self._by_session.get(process.session)
        if tree is None or tree.is_pid_reused or process.start_ticks < tree.leader.start_ticks:
            if process.mark is None:
                process.mark = self._reader.mark_of(process)
            tree = self._by_mark.get(process.mark)
            if tree is not None and not self._is_kin(process, tree):
                tree = None
        if tree is None:
            return
        process.tree, tree.is_changed = tree, True
        tree.members[process.pid] = process
        self._reader.open(process)
        if process.image:
            self._inherit(process, tree, self._known.get(str(process.parent)))
            tree.kin[process.image] = process

    def _is_kin(self, process: Process, tree: Tree) -> bool:
        """Whether a process may be of a task by its mark: it is where the leader is now, and the same user's."""
        if tree.leader.pid in tree.members:
            tree.origin = read_origin(self._root, tree.leader.pid) or tree.origin
        own = read_origin(self._root, process.pid)
        return tree.origin is not None and own is not None and tree.origin.covers(own)

    def _inherit(self, process: Process, tree: Tree, parent: Process | None) -> None:
        """Leave out what a forked process has of its parent; of a brother where the parent has ended."""
        kin = parent if parent is not None and parent.image == process.image else tree.kin.get(process.image)
        if kin is None:
            return
        # As it is now, not as it was at the last scan: what it had when it forked is what counts.
        self._reader.measure(kin)
        if not kin.shares_by_fork:
            self._reader.look(kin)
            kin.settle()
        kin.has_copies = True
        process.is_foreign = kin.is_foreign or kin.tree is not tree
        process.inherited_bytes = process.walked_anon_bytes = min(process.anon_bytes, kin.anon_bytes)
        if process.start_ticks / TICKS_PER_S <= tree.walked_s:
            # It had its part in what the last walk divided, unseen.
            tree.left_bytes += process.inherited_bytes

    def _keep_cpu(self, gone: Process) -> None:
        """Keep the CPU time of a process that ended where none of its tree has waited for it."""
        tree = gone.tree
        if tree is None:
            return
        parent = self._known.get(str(gone.parent))
        for _ in range(len(self._known)):
            if parent is None or parent.tree is not tree or not parent.is_gone:
                break
            parent = self._known.get(str(parent.parent))
        if parent is None:
            return
        if parent.tree is tree:
            # It is in the parent's time now.
            self._reader.look_soon(parent)
        else:
            tree.lost_ticks += gone.cpu_ticks

    def _drop(self, process: Process) -> None:
        """Forget a process that is gone."""
        del self._known[str(process.pid)]
        self._reader.forget(process)
        if process.tree is not None:
            process.empty()
            process.tree.is_changed = True
            del process.tree.members[process.pid]
            if process.tree.kin.get(process.image) is process:
                del process.tree.kin[process.image]
