# SPDX-License-Identifier: MIT
"""Reading a real cgroup v2 kernel: a user-mode Linux that MEMGUARD_V2RUN runs commands in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
V2RUN = Path(os.environ.get("MEMGUARD_V2RUN", REPOSITORY.parent / "shared" / "v2" / "v2run"))

# Inside the guest: a child of a limited group holds 64 MiB of its own, 64 MiB in a tmpfs, and has read many files.
INSIDE = """
import dataclasses, json, os, sys
from pathlib import Path
from memguard.sense.container import Sensor
top = Path("/sys/fs/cgroup/pod")
leaf = top / "build"
leaf.mkdir(parents=True)
for group in (top.parent, top):
    (group / "cgroup.subtree_control").write_text("+memory")
(top / "memory.max").write_text("400000000")
(leaf / "cgroup.procs").write_text(str(os.getpid()))
own = bytearray(os.urandom(1 << 20) * 64)
with open("/dev/shm/kept", "wb") as file:
    for _ in range(64):
        file.write(own[: 1 << 20])
for path in list(Path(os.__file__).parent.glob("*/*.py"))[:800]:
    path.read_bytes()
stat = dict(line.split() for line in (top / "memory.stat").read_text().splitlines())
cached = int(stat["file"]) - int(stat["shmem"])
sensor = Sensor()
first = sensor.read()
(top / "memory.max").write_text("300000000")
second = sensor.read()
print(json.dumps([dataclasses.asdict(first), dataclasses.asdict(second), cached, sensor.oom_kills()]))
"""


# A pod as Kubernetes makes it: oom.group set, memory.high below memory.max above, doctor in a cgroup of its own.
DOCTOR = """
import contextlib, io, json, os
from pathlib import Path
from memguard_cli.main import main
top = Path("/sys/fs/cgroup/pod")
leaf = top / "build"
leaf.mkdir(parents=True)
for group in (top.parent, top):
    (group / "cgroup.subtree_control").write_text("+memory +cpu +pids")
(top / "memory.max").write_text("400000000")
(top / "memory.high").write_text("300000000")
(top / "cpu.max").write_text("150000 100000")
(top / "pids.max").write_text("150")
(leaf / "memory.oom.group").write_text("1")
(leaf / "memory.swap.max").write_text("0")
(leaf / "cgroup.procs").write_text(str(os.getpid()))
found = []
for words in (["--json"], ["--json", "--mode", "off"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(["doctor", *words])
    found.append([status, json.loads(out.getvalue())])
print(json.dumps(found))
"""

# memguard run beside a limit of its own, in a cgroup that allows none, and a trigger on a cgroup that is slowed down.
RUN = """
import json, os, select, subprocess, sys
from pathlib import Path
from memguard.sense.pressure_trigger import PressureTrigger
def run(*words, enter=None):
    command = [sys.executable, "-m", "memguard_cli.main", "run", "--limit", "100M", "--json", "/tmp/run.json", "--"]
    into = (lambda: (enter / "cgroup.procs").write_text(str(os.getpid()))) if enter else None
    done = subprocess.run([*command, *words], capture_output=True, text=True, preexec_fn=into)
    return done.returncode, done.stderr, json.loads(Path("/tmp/run.json").read_text())
def traces():
    return {str(path) for top in ("/sys/fs/cgroup", "/tmp") for path in Path(top).glob("memguard-run-*")}
before = traces()
found = [run(sys.executable, "-c", "x = b'x' * (300 << 20)")]
leaf = Path("/sys/fs/cgroup/leaf")
leaf.mkdir()
found.append(run("true", enter=leaf))
(leaf / "memory.high").write_text(str(16 << 20))
trigger = PressureTrigger(str(leaf / "memory.pressure"))
code = f"open('{leaf}/cgroup.procs', 'w').write('0'); x = [bytearray(1 << 20) for _ in range(200)]"
process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
poller = select.poll()
poller.register(trigger.file, select.POLLPRI)
events = poller.poll(60_000)
os.killpg(process.pid, 9)
process.wait()
found.append([trigger.took_place(event) for _, event in events])
found.append(sorted(traces() - before))
print(json.dumps(found))
"""

# A group that may swap 64 of the machine's 128 MiB, a process in it that is stopped, and one that takes more.
SWAP = """
import json, os, signal, subprocess, sys
from pathlib import Path
from memguard.sense.container import Sensor
def said(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
store, pod, parked = Path("/dev/shm/swap"), Path("/sys/fs/cgroup/pod"), None
store.write_bytes(bytes(128 << 20))
device = said("losetup", "--find", "--show", str(store))
said("mkswap", device)
said("swapon", device)
(pod.parent / "cgroup.subtree_control").write_text("+memory")
pod.mkdir()
(pod / "memory.max").write_text(str(128 << 20))
(pod / "memory.swap.max").write_text(str(64 << 20))
(pod / "cgroup.procs").write_text(str(os.getpid()))
sensor = Sensor()
found = [sensor.read().swap_left_bytes]
code = "import sys; held = bytearray(b'x') * (80 << 20); print(flush=True); sys.stdin.read()"
parked = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
parked.stdout.readline()
parked.send_signal(signal.SIGSTOP)
own = bytearray(b"y") * (64 << 20)
found += [sensor.read().swap_left_bytes, int((pod / "memory.swap.current").read_text())]
(pod / "memory.swap.max").write_text("0")
found.append(sensor.read().swap_left_bytes)
(pod / "memory.swap.max").write_text("max")
found.append(sensor.read().swap_left_bytes)
parked.kill()
parked.wait()
said("swapoff", device)
found += [sensor.read().swap_left_bytes, sensor.oom_kills()]
print(json.dumps(found))
"""

# The same build in a pod of 1 GiB that the kernel kills whole: by stock, and with footprints that are far too small.
# Once it compiles, a neighbour in the same pod takes so much that what is stopped is too much, and gives it back.
BUILD = """
import json, re, subprocess, sys
from pathlib import Path
from testbed import builddir
from testbed.bitbake import locate
tests, recipes = Path(sys.argv[1]), ("chaos-make", "chaos-ninja", "chaos-python", "chaos-install")
layers = [builddir.META_TEST, tests / "bitbake" / "meta-chaos", tests.parent / "meta-memguard"]
Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
conf = 'BB_NUMBER_THREADS = "4"\\nPARALLEL_MAKE = "-j 4"\\n'
on = 'INHERIT += "memguard"\\n' + "".join(
    f'MEMGUARD_FOOTPRINT:pn-{recipe} = "do_compile:per_job=35M do_install:per_job=35M"\\n' for recipe in recipes
)
neighbour = '''
import sys, time
from pathlib import Path
pod, log = Path(sys.argv[1]), Path(sys.argv[2])
(pod / "cgroup.procs").write_text("0")
while not log.exists() or log.read_text().count("begin") < 5:
    time.sleep(0.1)
held = []
for _ in range(8):
    held.append(bytearray(b"x" * (50 << 20)))
    time.sleep(0.3)
time.sleep(8)
'''
found = []
for name, text in (("stock", conf), ("memguard", conf + on)):
    pod = Path("/sys/fs/cgroup") / name
    pod.mkdir()
    (pod / "memory.max").write_text("1G")
    (pod / "memory.oom.group").write_text("1")
    where = builddir.make(Path("/tmp/build-" + name), layers, text)
    enter = ("sh", "-c", f'echo $$ > {pod}/cgroup.procs; exec "$@"', "sh")
    beside = subprocess.Popen([sys.executable, "-c", neighbour, str(pod), str(where / "chaos.log")])
    result = builddir.run(locate(), where, *recipes, prefix=enter)
    beside.kill()
    beside.wait()
    events = dict(line.split() for line in (pod / "memory.events").read_text().splitlines())
    acts = [json.loads(line)["event"] for log in where.glob("memguard/readings/*.jsonl") for line in log.open()]
    retries = len(re.findall("runs again with", result.output))
    counts = [acts.count("stop"), acts.count("kill"), retries]
    kills = [int(events["oom_group_kill"]), int(events["oom_kill"])]
    found.append([result.returncode, kills, counts, list(result.leftover), result.output[-2000:]])
print(json.dumps(found))
"""

# A build in a cgroup that the kernel kills whole. The first run of a task takes more than there is at once, and
# memguard, which stops no task that runs alone, meets the kernel. Root's is a pod; another user's a service of
# systemd's, and doctor is asked there before and after each step of delegation: systemd's mark, and that the directory
# and the files that the kernel lists are the user's.
CGROUP_BUILD = """
import json, os, subprocess, sys
from pathlib import Path
from testbed import builddir
from testbed.bitbake import locate
tests, group, user = Path(sys.argv[1]), Path("/sys/fs/cgroup") / sys.argv[2], int(sys.argv[3])
layers = [builddir.META_TEST, tests.parent / "meta-memguard"]
Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
group.mkdir()
(group / "memory.max").write_text("512M")
(group / "memory.oom.group").write_text("1")
for path in Path(sys.executable).resolve().parents:
    path.chmod(path.stat().st_mode | 0o055)
words = f"exec setpriv --reuid {user} --regid {user} --clear-groups" if user else "exec"
enter = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; {words} "$@"', "sh")
def obstacle():
    doctor = (sys.executable, "-m", "memguard_cli.main", "doctor", "--json")
    warnings = json.loads(subprocess.run((*enter, *doctor), capture_output=True, text=True).stdout)["warnings"]
    return next(warning["text"] for warning in warnings if warning["code"] == "oom-group")
told = [obstacle()]
if user:
    os.setxattr(group, "user.delegate", b"1")
    told.append(obstacle())
    os.chown(group, user, user)
    for name in Path("/sys/kernel/cgroup/delegate").read_text().split():
        if (group / name).exists():
            os.chown(group / name, user, user)
    told.append(obstacle())
conf = '''INHERIT += "memguard"
MEMGUARD_CGROUPS = "auto"
TINY_COMMAND = "if mkdir ${TOPDIR}/once; then python3 ${TOPDIR}/hog.py 700; fi; cat /proc/self/cgroup > ${TOPDIR}/seen"
'''
where = builddir.make(Path("/tmp/build"), layers, conf)
(where / "hog.py").write_text("import sys; x = b'x' * (int(sys.argv[1]) << 20)")
for path in (where, *where.rglob("*")):
    os.chown(path, user, user)
result = builddir.run(locate(), where, "tiny-01", prefix=enter)
events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
left = [path.name for path in group.iterdir() if path.is_dir()]
left += (group / "cgroup.subtree_control").read_text().split() + (group / "cgroup.procs").read_text().split()
seen = (where / "seen").read_text() if (where / "seen").exists() else ""
print(json.dumps([told, result.returncode, events["oom_group_kill"], events["oom_kill"], left, seen, result.output]))
"""

# What is left by whoever dies: a sentinel that loses its server takes all away, the next build what both have left.
CGROUP_LEFT = """
import json, os, subprocess, sys
from pathlib import Path
from memguard.act.task_cgroup import TaskCgroup, obstacle
from memguard.channels.fifo import Listener, Notes
from memguard.channels.notes import Orders
from memguard.model import Policy
from memguard.sense.container import Sensor
from memguard.sense.proc_files import find_process
from memguard.sentinel.process import Shell
top, pod = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pod")
(top / "cgroup.subtree_control").write_text("+memory")
pod.mkdir()
(pod / "memory.max").write_text("256M")
(pod / "cgroup.procs").write_text("0")
def state():
    names = sorted(str(path.relative_to(pod)) for path in pod.rglob("*") if path.is_dir())
    inside = str(os.getpid()) in (pod / "cgroup.procs").read_text().split()
    return [names, (pod / "cgroup.subtree_control").read_text().split(), inside]
def task(directory):
    code = "import sys, time; from pathlib import Path; from memguard.act.task_cgroup import enter;"
    code += "enter(Path(sys.argv[1])); print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process
def make(process):
    return TaskCgroup.make(Sensor().memory, find_process(process.pid))
def server():
    return subprocess.Popen(["sleep", "600"])
found = {"obstacle": obstacle(Sensor().memory), "before": state()}
servers = [server() for _ in range(4)]
made = make(servers[0])
tasks = [task(made.directory)]
sensor = Sensor()
reading = sensor.read()
made.follow(lambda: reading)
found["levels"] = [level.directory for level in sensor.memory.levels]
found["limits"] = [reading.limit_bytes, int((made.directory / "memory.max").read_text())]
orders = Orders("build", Policy(directory="/tmp/build"), cgroup=str(made.directory))
shell = Shell(orders, Listener(Notes(Path("/tmp/build")).listen()))
shell.step()
shell.finish(is_farewell=False)
shell.close()
found["server lost"] = state()
# Of the next build nobody is left: that after it finds a cgroup of a dead one, with a task.
left = make(servers[1])
tasks.append(task(left.directory))
servers[1].kill()
servers[1].wait()
made = make(servers[2])
found["both lost"] = [left.directory.exists(), [one.poll() for one in tasks]]
# Two builds at once, the second for the second time, with one left of the first: the first to end leaves it its place.
tasks.append(task(make(servers[3]).directory))
second = make(servers[3])
made.remove()
found["one of two"] = [path.name == second.directory.name for path in pod.glob("memguard.tasks.*")]
second.remove()
found["at the end"] = state()
for room in "0", "1":
    (pod / "cgroup.max.descendants").write_text(room)
    try:
        make(servers[3])
    except OSError:
        found["room for " + room] = state()
for process in (*tasks, *servers):
    process.kill()
    process.wait()
print(json.dumps([found]))
"""

NEEDS_V2 = pytest.mark.skipif(
    not V2RUN.exists(), reason=f"no real cgroup v2 kernel here: {V2RUN} (MEMGUARD_V2RUN) is not there"
)


def run(code: str, *arguments: str, timeout_s: float = 120) -> list[Any]:
    """Run a piece of Python as root of the guest, and return what its last line says in JSON."""
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("meta-memguard/lib", "lib", "tests"))
    found = subprocess.run(
        [str(V2RUN), sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, "V2_CGROUP": "v2", "V2_SHARE": "cow", "V2_TIMEOUT": str(int(timeout_s))},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    said: list[Any] = json.loads(found.stdout.strip().splitlines()[-1])
    return said


@NEEDS_V2
def test_a_limit_on_an_ancestor_is_read_and_read_again() -> None:
    """The limit of the group above is found, tmpfs counts as used and cache does not, a resize in place is seen."""
    first, second, cached, kills = run(INSIDE)
    assert 399_990_000 < first["limit_bytes"] <= 400_000_000
    assert 299_990_000 < second["limit_bytes"] <= 300_000_000
    assert first["limit_source"] == "/sys/fs/cgroup/pod/memory.max"
    assert 64 << 20 <= first["shmem_bytes"] < 72 << 20
    assert cached > 8 << 20
    assert 128 << 20 < first["used_bytes"] < (128 << 20) + (16 << 20)
    assert first["room_bytes"] == first["limit_bytes"] - first["used_bytes"]
    assert first["room_bytes"] > second["room_bytes"]
    assert kills == 0


@NEEDS_V2
def test_swap_is_read_as_the_kernel_grants_it() -> None:
    """What memory.swap.max leaves of the machine's swap, less what lies there; none once it is taken away."""
    first, then, swapped, none, of_machine, gone, kills = run(SWAP)
    assert first == 64 << 20
    assert swapped > 8 << 20
    assert then == pytest.approx((64 << 20) - swapped, abs=4 << 20)
    assert none == 0
    assert of_machine == pytest.approx((128 << 20) - swapped, abs=4 << 20)
    assert (gone, kills) == (0, 0)


@NEEDS_V2
def test_doctor_on_a_real_v2_kernel() -> None:
    """Limits, quota, pressure, oom.group and delegation are told as the kernel really has them."""
    (status, found), (off_status, off) = run(DOCTOR)
    assert (status, off_status) == (0, 3)
    assert 299_990_000 < found["limit_bytes"] <= 300_000_000
    assert found["limit_source"] == "/sys/fs/cgroup/pod/memory.high"
    assert found["cgroup_version"] == "v2"
    assert found["cpus"] == 1.5
    assert found["psi_source"] == "/sys/fs/cgroup/pod/build/memory.pressure"
    assert found["swap_limit_bytes"] == 0
    assert (found["oom_group"], found["delegated"]) == (True, True)
    assert (found["can_freeze"], found["can_kill"]) == (True, True)
    assert 0 < found["used_bytes"] <= found["working_set_bytes"] <= found["charged_bytes"]
    assert [level["path"] for level in found["levels"]] == [
        f"/sys/fs/cgroup{end}" for end in ("/pod/build", "/pod", "")
    ]
    assert (found["pids_limit"], found["pids_used"]) == (150, 1)
    told = {warning["code"]: warning["text"] for warning in found["warnings"]}
    assert told.keys() == {"oom-group", "memory-high", "limit-too-small", "pids-limit"}
    assert "below memory.max of 381 MiB" in told["memory-high"]
    assert "/sys/fs/cgroup/pod/pids.max allows 150 processes" in told["pids-limit"]
    assert 'With MEMGUARD_CGROUPS = "auto" such a kill costs one process' in told["oom-group"]
    assert found["task_cgroup"] is True
    assert "memguard is off" in off["warnings"][0]["text"]


@NEEDS_V2
def test_memguard_run_on_a_real_v2_kernel() -> None:
    """A limit is enforced and its kill counted; where it cannot be, that is told; a trigger fires; nothing is left."""
    (status, _, enforced), (busy_status, busy, watched), events, left = run(RUN)
    assert (status, enforced["oom_kills"], enforced["limit_bytes"]) == (137, 1, 100 << 20)
    assert enforced["limit_source"].startswith("/sys/fs/cgroup/memguard-run-")
    assert (busy_status, watched["limit_bytes"]) == (0, 100 << 20)
    assert "processes lie in the cgroup above" in busy
    assert events == [True]
    assert left == []


@NEEDS_V2
def test_a_build_survives_in_a_pod_that_is_killed_whole() -> None:
    """With memory.oom.group one kill takes the pod: the stock build is lost, the guarded one never meets the kernel."""
    stock, guarded = run(BUILD, str(REPOSITORY / "tests"), timeout_s=900)
    assert stock[0] != 0
    assert stock[1][0] >= 1
    status, kernel_kills, (_, kills, retries), leftover, output = guarded
    assert status == 0, output
    assert kernel_kills == [0, 0]
    # Whether anything must be stopped or killed depends on what meets; what lost a compiler has run again.
    assert (retries > 0) is (kills > 0)
    assert leftover == []


@NEEDS_V2
@pytest.mark.parametrize(("group", "user"), [("pod", 0), ("build.service", 65534)], ids=["root", "delegated"])
def test_a_kernel_kill_costs_one_process_where_tasks_have_a_cgroup(group: str, user: int) -> None:
    """Although memory.oom.group is set the build goes on: the task runs again, and ends; nothing is left.

    As a user who is not root, too, once systemd has handed the cgroup over; until then doctor says what is in the way.
    """
    told, status, group_kills, kills, left, seen, output = run(
        CGROUP_BUILD, str(REPOSITORY / "tests"), group, str(user), timeout_s=600
    )
    assert (status, group_kills, kills, left) == (0, "0", "1", []), output
    assert "runs again with" in output
    assert re.fullmatch(rf"0::/{re.escape(group)}/memguard\.tasks\.\d+-\d+\n", seen)
    assert 'With MEMGUARD_CGROUPS = "auto" such a kill costs one process.' in told[-1]
    refused = ["systemd keeps /sys/fs/cgroup/build.service", "/sys/fs/cgroup/build.service may not be written"]
    for text, why in zip(told[:-1], refused):
        assert why in text
    assert len(told) == (3 if user else 1)


@NEEDS_V2
def test_nothing_is_left_of_a_cgroup_whoever_dies() -> None:
    """A lost server's goes with its sentinel, a dead build's with the next, and no task dies of it."""
    (found,) = run(CGROUP_LEFT)
    before = [[], [], True]
    assert (found["obstacle"], found["before"]) == ("", before)
    assert found["levels"] == ["/sys/fs/cgroup/pod", "/sys/fs/cgroup"]
    limit_bytes, below_bytes = found["limits"]
    assert limit_bytes == 256 << 20
    assert 180 << 20 < below_bytes < 248 << 20
    assert found["server lost"] == before
    assert found["both lost"] == [False, [None, None]]
    assert found["one of two"] == [True]
    assert found["at the end"] == found["room for 0"] == found["room for 1"] == before
