# SPDX-License-Identifier: MIT
"""Fixtures that all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Neither the test bed nor the layer's modules are installed, and the command is tested as it lies here.
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent / "meta-memguard" / "lib"), str(TESTS.parent / "lib"), str(TESTS)]

from testbed import postgresql  # noqa: E402  (found through the lines above)
from testbed.bitbake import BitBake, BitBakeMissing, locate  # noqa: E402
from testbed.postgresql import Postgres, PostgresMissing  # noqa: E402

# A shell that starts the tests in the background has them, and all they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test judges by the clock; in CI the same examples are tried each time, elsewhere new ones.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


def pytest_report_header() -> str:
    """Say which BitBake the tests run on."""
    try:
        return str(locate())
    except BitBakeMissing as missing:
        return f"BitBake: {missing}"


@pytest.fixture(scope="session")
def bitbake() -> BitBake:
    """Return the BitBake to test with."""
    return locate()


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A real PostgreSQL server for the time of the tests."""
    try:
        with postgresql.running() as found:
            yield found
    except PostgresMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' tool, from the system or as scripts/setup has unpacked it."""
    found = shutil.which("promtool") or shutil.which("promtool", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("promtool is not here: it is in Debian's package prometheus, which scripts/setup unpacks")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the kind that its folder names."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
