# SPDX-License-Identifier: MIT
"""Which names are those of compilers."""

from __future__ import annotations

import pytest

from memguard.sense.compilers import is_compiler, source_of


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


@pytest.mark.parametrize(
    ("line", "name"),
    [
        # gcc 12, by gcc -###
        (
            "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet -imultiarch x86_64-linux-gnu -MD lib/A.d -MF lib/A.o.d "
            "-D_GNU_SOURCE /build/tmp/work/core2/llvm/18.1.6/git/llvm/lib/Target/X86/A.cpp -quiet -dumpbase A.cpp "
            "-O2 -o /tmp/ccUk2mdS.s",
            "lib/Target/X86/A.cpp",
        ),
        # clang 16, by clang -###
        (
            "/usr/bin/clang-16 -cc1 -triple x86_64 -main-file-name a.cpp -o CMakeFiles/a.o -x c++ ../../src/a.cpp",
            "src/a.cpp",
        ),
        ("rustc --crate-name serde --edition=2021 /cargo/registry/src/serde-1.0.2/src/lib.rs -o x", "serde"),
        (
            "/usr/bin/x86_64-poky-linux-ld -m elf_x86_64 -o lib/libLLVM.so.18 a.o b.o",
            "lib/libLLVM.so.18",
        ),
        ("lto1 -quiet -dumpbase ./app.ltrans3.ltrans -fltrans @/tmp/ccA1 -o /tmp/ccb.s", "app.ltrans3.ltrans"),
        ("javac -d out -classpath a.jar src/A.java src/B.java", "src/A.java"),
        ("cc1 -quiet -D NAME=a.c -include config.h", ""),
        ("cc1plus", ""),
        ("", ""),
    ],
)
def test_people_are_told_what_is_built(line: str, name: str) -> None:
    """A crate, the end of the source's path, what is linked; no directory of the machine, no temporary file."""
    assert source_of("\0".join(line.split()).encode() + b"\0") == name


def test_a_name_has_an_end() -> None:
    """However long a path is, and whatever bytes it is of."""
    assert len(source_of(b"cc1\0/" + b"d" * 4000 + b"/\xff.c\0").encode()) <= 130
