# SPDX-License-Identifier: MIT
"""Reading a real cgroup v2 kernel: a user-mode Linux that MEMGUARD_V2RUN runs commands in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
V2RUN = Path(os.environ.get("MEMGUARD_V2RUN", REPOSITORY.parent / "shared" / "v2" / "v2run"))

# Inside the guest: a child of a limited group holds 64 MiB of its own, 64 MiB in a tmpfs, and has read many files.
INSIDE = """
import dataclasses, json, os, sys
from pathlib import Path
from memguard.sense import Sensor
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


@pytest.mark.skipif(not V2RUN.exists(), reason=f"no real cgroup v2 kernel here: {V2RUN} (MEMGUARD_V2RUN) is not there")
def test_a_limit_on_an_ancestor_is_read_and_read_again() -> None:
    """The limit of the group above is found, tmpfs counts as used and cache does not, a resize in place is seen."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "meta-memguard" / "lib"), "V2_CGROUP": "v2", "V2_SHARE": "cow"}
    found = subprocess.run(
        [str(V2RUN), sys.executable, "-c", INSIDE],
        env=env,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    first, second, cached, kills = json.loads(found.stdout.strip().splitlines()[-1])
    assert 399_990_000 < first["limit_bytes"] <= 400_000_000
    assert 299_990_000 < second["limit_bytes"] <= 300_000_000
    assert first["limit_source"] == "/sys/fs/cgroup/pod/memory.max"
    assert 64 << 20 <= first["shmem_bytes"] < 72 << 20
    assert cached > 8 << 20
    assert 128 << 20 < first["used_bytes"] < (128 << 20) + (16 << 20)
    assert first["room_bytes"] == first["limit_bytes"] - first["used_bytes"]
    assert first["room_bytes"] > second["room_bytes"]
    assert kills == 0
