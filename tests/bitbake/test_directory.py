# SPDX-License-Identifier: MIT
"""Two BitBake servers with one MEMGUARD_DIR: the first has it, the second builds as stock."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from test_build import META_MEMGUARD, ON, build

from memguard.channels.claim import owner_of
from memguard.sense.proc_files import find_process, parse_mark
from testbed import builddir
from testbed.bitbake import BitBake
from testbed.builddir import META_TEST, Result


def test_a_directory_serves_one_server_at_a_time(bitbake: BitBake, tmp_path: Path) -> None:
    """The second one says so once and builds all the same; nothing of its tasks is in the first one's records."""
    first, second = tmp_path / "first", tmp_path / "second"
    shared = f'{ON}MEMGUARD_DIR = "{tmp_path}/memguard"\n'
    results: list[Result] = []
    until = f"until test -e {tmp_path}/go; do sleep 0.1; done"
    wait = f"TINY_COMMAND = \"touch {tmp_path}/runs; timeout 300 sh -c '{until}'\"\n"
    builddir.make(first, [META_TEST, META_MEMGUARD], shared + wait)
    thread = threading.Thread(target=lambda: results.append(builddir.run(bitbake, first, "tiny-01")))
    thread.start()
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "runs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        owner = parse_mark(owner_of(tmp_path / "memguard"))
        assert owner is not None
        assert find_process(owner.pid) == owner
        built = build(bitbake, second, shared, "tiny-02")
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert built.result.returncode == 0, built.result.output
    warnings = re.findall("WARNING: (.*)", built.result.output)
    assert len(warnings) == 1, built.result.output
    assert f"another build uses {tmp_path}/memguard now, so this one goes on as stock" in warnings[0]
    (result,) = results
    assert result.returncode == 0, result.output
    assert "WARNING" not in result.output
    records = [path.read_text(encoding="utf-8") for path in tmp_path.glob("memguard/*/*.jsonl")]
    assert any("tiny-01" in text for text in records)
    assert not any("tiny-02" in text for text in records)
    assert {path.name for path in (tmp_path / "memguard").iterdir()} == {"events", "readings", "history.db"}
