# SPDX-License-Identifier: MIT
"""Which names are those of compilers."""

from __future__ import annotations

import pytest

from memguard.sense.compilers import is_compiler


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("cc1plus", True),
        ("clang-17", True),
        ("clang-tblgen", True),
        ("ghc-9.4.7", True),
        ("aarch64-poky-linux-ld.bfd", True),
        ("arm-none-eabi-ld", True),
        ("x86_64-poky-linux-g++", False),
        ("byte-compile", False),
        ("make", False),
        ("as", False),
        ("java", False),
        ("", False),
        ("ld\n", False),
        ("\\xffcc1", False),
    ],
)
def test_names_of_compilers(name: str, is_one: bool) -> None:
    """Versions and targets are looked through, and nothing else."""
    assert is_compiler(name) is is_one
