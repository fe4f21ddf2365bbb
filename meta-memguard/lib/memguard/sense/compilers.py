# SPDX-License-Identifier: MIT
"""Which processes are one job of a build, and what they build.

Runs in: the sentinel and `memguard run`; pure.
Covers: the names of compilers and linkers, with versions and targets around them; a number for what one builds, by its
command line, that is the same in the next build.
Does not cover: reading names and command lines (process_reader), what a unit took before (predict.remembered_lives).
"""

from __future__ import annotations

import functools
import re

from memguard.units import digest

# Processes that are one job of a build each: their number is the jobs at work, and the build loses one object file with
# each. So the programs that hold memory are here (compilers proper, code generators, linkers), and those are not that
# only wait for one (gcc, g++, collect2, lto-wrapper, cargo, ccache), that run beside one in a pipe (as), or whose death
# is the whole task's (make, ninja, java, which is as often the build tool itself: ant, gradle, bazel).
_COMPILERS = """
cc1 cc1plus cc1obj cc1objplus cc1gm2 lto1 f951 gnat1 go1 d21 crab1
clang clang++ clang-cl flang flang-new swift-frontend opt llc llvm-tblgen clang-tblgen mlir-tblgen
rustc ghc javac ocamlopt ocamlopt.opt ldc2 dmd zig cicc ptxas cudafe++
ld ld.bfd ld.gold ld.lld ld.mold ld64.lld lld rust-lld wasm-ld gold mold
compile link
"""  # The last two are Go's.
COMPILERS = frozenset(_COMPILERS.split())
# "x86_64-poky-linux-ld.bfd", "clang-17", "ghc-9.4.7". A target's name has two dashes at least: "byte-compile" is none.
_DRESSED = re.compile(r"(?:\w+-\w+-(?:\w+-)*)?(?P<name>.+?)(?:-\d[\d.]*)?")
COMM_MOST_BYTES = 15  # the kernel cuts names there (TASK_COMM_LEN)


@functools.lru_cache(maxsize=1024)
def is_compiler(name: str) -> bool:
    """Whether a program of this name is one job of a build: one of COMPILERS, maybe for a target or of a version."""
    dressed = _DRESSED.fullmatch(name)
    return name in COMPILERS or (dressed is not None and dressed["name"] in COMPILERS)


# Options whose next word is no file that is built: macros, directories, settings.
_WITH_WORD = frozenset(
    b"-A -C -D -F -I -L -U -buildid -fdebug-compilation-dir -idirafter -imultiarch -imultilib -iquote -isysroot "
    b"-isystem -resource-dir -target-cpu --extern".split()
)
# Temporary files, with "@" before a list of arguments.
_TEMPORARY = re.compile(rb"@?(?:/var|/usr)?/tmp/[^/]*")


def unit_of(command_line: bytes) -> int:
    """The unit that a process builds, by its command line as in /proc/PID/cmdline; 0 where that is empty.

    It is the same wherever the build directory lies, and whatever temporary files are called: the names of the program,
    of sources and of outputs count; options do not, nor most of their values, nor directories of absolute paths.
    """
    words = command_line.split(b"\0")
    names = [
        word.rpartition(b"/")[2] if word.startswith(b"/") else word
        for before, word in zip([b"", *words], words)
        if not word.startswith(b"-") and before not in _WITH_WORD and not _TEMPORARY.fullmatch(word)
    ]
    return int.from_bytes(digest(b"\0".join(names)), "big") if any(names) else 0
