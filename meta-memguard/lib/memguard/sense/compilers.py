# SPDX-License-Identifier: MIT
"""Which processes are one job of a build, and what they build.

Runs in: the sentinel and `memguard run`; pure.
Covers: the names of compilers and linkers, with versions and targets around them; what one builds, by its command line:
a number that is the same in the next build, and a name for people.
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


# What people call a source by its ending; objects, archives and lists of arguments have none of these.
_SOURCE = re.compile(
    rb"[^=]*\.(?:c|cc|cp|cpp|cxx|c\+\+|C|m|mm|i|ii|f|f90|F|F90|for|adb|ads|go|d|rs|hs|ml|mli|java|swift|cu|ll|bc|td|zig)"
)
# The word before a name that says more than a file, since crates are all called lib.rs; before what is all there is.
_CRATE, _OUTPUT, _PASS = b"--crate-name", b"-o", b"-dumpbase"
# The longest name that is kept, and of how many parts of its path.
_NAME_MOST_BYTES, _PARTS_MOST = 120, 4


def unit_of(command_line: bytes) -> int:
    """The unit that a process builds, by its command line as in /proc/PID/cmdline; 0 where that is empty.

    It is the same wherever the build directory lies, and whatever temporary files are called: the names of the program,
    of sources and of outputs count; options do not, nor most of their values, nor directories of absolute paths.
    """
    names = [
        word.rpartition(b"/")[2] if word.startswith(b"/") else word for _, word in _names(command_line.split(b"\0"))
    ]
    return int.from_bytes(digest(b"\0".join(names)), "big") if any(names) else 0


def source_of(command_line: bytes) -> str:
    """What a process builds, for people: its crate, the end of its source's path, else of its output's; "" if unknown.

    Where several sources are built at once it is the first of them.
    """
    names = _names(command_line.split(b"\0")[1:])
    found = dict(reversed(names))
    # "-MF main.d" is a list of what it includes.
    sources = [word for before, word in names if _SOURCE.fullmatch(word) and not before.startswith(b"-M")]
    source = next(iter(sources), b"")
    # clang says the file's name first, and later where it lies.
    whole = next((word for word in sources if word.endswith(b"/" + source)), source)
    name = found.get(_CRATE) or whole or found.get(_OUTPUT) or found.get(_PASS, b"")
    parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..")]
    return b"/".join(parts[-_PARTS_MOST:])[-_NAME_MOST_BYTES:].decode("utf-8", "replace")


def _names(words: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The words that name what is built, the program first, each with the word before it."""
    return [
        (before, word)
        for before, word in zip([b"", *words], words)
        if not word.startswith(b"-") and before not in _WITH_WORD and not _TEMPORARY.fullmatch(word)
    ]
