# SPDX-License-Identifier: MIT
"""What a compiler prints that the kernel has killed, and what is found in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed.container import NoContainer, container
from testbed.failures import judge, printed


@pytest.mark.memcg
def test_a_real_compiler_killed_by_the_kernel(tmp_path: Path) -> None:
    """g++ in a memory cgroup that is too small for its cc1plus.

    It runs once outside first, so that its pages are nobody's: evicted and read again without end, they would let it
    crawl at the limit.
    """
    (tmp_path / "x.cc").write_text('#include <regex>\n#include <iostream>\nstd::regex r("a*");\nint main() {}\n')
    subprocess.run(["g++", "-O2", "-c", "x.cc"], cwd=tmp_path, check=True)
    try:
        with container(96 << 20, name="memguard-failures") as small:
            text = printed(*small.prefix, "g++", "-O2", "-c", "x.cc", cwd=tmp_path)
            assert small.oom_kills
    except NoContainer as reason:
        pytest.skip(str(reason))
    finding = judge(text)
    assert (finding.verdict, finding.program) == ("memory", "cc1plus")
