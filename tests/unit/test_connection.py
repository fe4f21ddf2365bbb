# SPDX-License-Identifier: MIT
"""Which file systems one machine alone writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from memguard.record.history.connection import is_local


@pytest.mark.parametrize(
    ("place", "local"),
    [
        ("/srv/h", True),
        ("/srv/nfs/h", False),
        ("/srv/nfs2/h", True),
        ("/srv/nfs/scratch/h", True),
        ("/srv/a b/h", False),
        ("/hidden/h", False),
        ("/fuse/h", False),
    ],
)
def test_network_file_systems_are_known(place: str, local: bool) -> None:
    """The deepest mount over the file decides, and of two on one point the later."""
    mounts = [
        ("/", "ext4"),
        ("/srv", "xfs"),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/scratch", "tmpfs"),
        ("/srv/a\\040b", "cifs"),
        ("/hidden", "ext4"),
        ("/hidden", "9p"),
        ("/fuse", "fuse.sshfs"),
    ]
    lines = [f"1 0 0:1 / {point} rw shared:1 - {kind} source rw" for point, kind in mounts]
    assert is_local(Path(place), "\n".join([*lines, "", "odd - line"])) is local
    assert not is_local(Path(place), "")
