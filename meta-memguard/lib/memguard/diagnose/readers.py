# SPDX-License-Identifier: MIT
"""A closer look at lines whose words alone do not decide: how much was asked for, who asked, whose kernel says it.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: the match of a rule -> a sign, with a strength of its own.
Does not cover: which lines are looked at (memory_rules.py).
"""

from __future__ import annotations

import re

from memguard.diagnose.rule import (
    CAUSE,
    DOUBT,
    HINT,
    KILLED,
    STATED,
    STOPPED,
    WEAK,
    Remedy,
    Sign,
    program_in,
    program_of,
)

_GIB = 1 << 30
_CORRUPT = "asked for more memory than any machine has: a corrupt input"


def _is_absurd(asked_bytes: int, total_bytes: int | None = None) -> bool:
    """Whether no sane program asks for that much at once, as tools do on behalf of corrupt archives and objects.

    From 1 TiB on; a negative number that lost its sign (just below 2^31, 2^32); more than 1 GiB and 32 times all that
    the program had; from 64 GiB on where that is not known.
    """
    if asked_bytes >= 1 << 40 or any(0 < wrap - asked_bytes <= 1 << 16 for wrap in (1 << 31, 1 << 32)):
        return True
    if total_bytes is None:
        return asked_bytes >= 64 * _GIB
    return asked_bytes > _GIB and asked_bytes > 32 * total_bytes


def read_sized(found: re.Match[str]) -> Sign:
    """An allocation that failed, by its size."""
    groups = found.groupdict()
    total = groups.get("total")
    program = program_in(groups.get("program"))
    if _is_absurd(int(groups["asked"]), int(total) if total else None):
        return Sign(CAUSE, _CORRUPT, program)
    return Sign(STATED, "an allocation failed", program)


_ARCHIVER = re.compile(r"(?:bsd)?tar|cpio|unzip|gunzip|unxz|bunzip2|unzstd|7za?|unrar|ar|file")


def read_exhausted(found: re.Match[str]) -> Sign:
    """Memory exhausted, by who says it: an archiver may only have believed a corrupt archive."""
    program = program_in(found["program"])
    if program and _ARCHIVER.fullmatch(program):
        return Sign(DOUBT, "an archive asked for more memory than there was; it may be corrupt", program)
    return Sign(STATED, "no memory was left", program)


_OTHER_MEMORY = re.compile(r"static TLS block|GPU|CUDA|OpenCL|HUGETLB|huge ?page")
_LOCKED_MEMORY = re.compile(r"\b(?:mlock\w*|io_uring\w*|io_setup|perf_event\w*|bpf|BPF|memlock|ulimit -l)\b")
_OTHER_LIMIT = re.compile(r"\b(?:insmod|modprobe|unshare)\b")
_ADDRESS_SPACE = re.compile(r"\b(?:RLIMIT_AS|ulimit -v)\b|^\S*qemu-(?!system|img)\S*: .*\b(?:m?map\w*|guest)\b")
_LARGE_SIZE = re.compile(r"\b(\d{6,})\b ?(?:bytes|B\b)")


def read_enomem(found: re.Match[str]) -> Sign:
    """errno 12, by what it was about: it also means other kinds of memory, and limits that have their own number."""
    whole, program = found.string, program_in(found["program"])
    if _OTHER_MEMORY.search(whole):
        return Sign(CAUSE, "another kind of memory ran out, not the container's", program)
    if _LOCKED_MEMORY.search(whole):
        return Sign(CAUSE, "the limit of locked memory (ulimit -l)", program, outweighs=(STATED,))
    if _ADDRESS_SPACE.search(whole):
        reason, remedy = _LIMITS["space"]
        return Sign(CAUSE, reason, program, outweighs=(STATED,), remedy=remedy)
    if _OTHER_LIMIT.search(whole):
        return Sign(DOUBT, "a limit of its own (namespaces, modules) says the same", program)
    sized = _LARGE_SIZE.search(whole)
    if sized and _is_absurd(int(sized[1])):
        return Sign(CAUSE, _CORRUPT, program)
    return Sign(STATED, "the system had no memory to give", program)


def read_process(found: re.Match[str]) -> Sign:
    """A process that died of signal 9, by whether it has a name."""
    program = program_of(found)
    return Sign(KILLED if program else HINT, "killed by signal 9", program)


_LOCALES = re.compile(r"DateTime|Intl|ICU|Locale|Collator|NumberFormat|Segmenter|PluralRules|Calendar")


def read_v8(found: re.Match[str]) -> Sign:
    """V8 out of memory, by what it was about to do."""
    if _LOCALES.search(found.string):
        return Sign(CAUSE, "V8 calls missing language data (ICU) out of memory")
    return Sign(STATED, "the JavaScript heap was full", remedy=Remedy.V8_HEAP)


_BUILD_PROGRAM = re.compile(
    r"(?:.*-)?(?:cc1\w*|lto1?\w*|lto1-\w+|lto-wrapper|ld|ld\.\w+|ld64\S*|lld|mold|collect2|as|gas|gcc|g\+\+|c\+\+|cpp|"
    r"gcc-\S+|g\+\+-\S+|clang\S*|rustc|rustdoc|cargo|go|compile|link|cgo|asm|ghc\S*|ocaml\w*|f951|gnat1|d21|dmd|ldc2|"
    r"swift\S*|java|javac|kotlin\S*|gradle|bazel\S*|node|npm|yarn|mksnapshot|torque|python[\d.]*|perl|bitbake\S*|"
    r"Cooker|Parser-\d+|Worker\S*|make|gmake|ninja|samu|cmake|meson|xz|zstd|pzstd|pixz|pigz|gzip|bzip2|tar|rpm\S*|"
    r"dpkg\S*|opkg\S*|dnf|pahole|mkfs\S*|mksquashfs|mke2fs|resize2fs|genautomata|gen\w+|moc|rcc|uic|qml\w+|protoc|"
    r"flatc|llvm-\S+|opt|llc|swipl|objcopy|objdump|strip|nm|ar|ranlib|dwz|debugedit|qemu-\S+|sh|bash|dash)"
)
_INTERPRETERS = re.compile(r"python[\d.]*|perl|sh|bash|dash|ruby|lua")
# The kernel takes the largest; the largest of a build host is a compiler, a linker or BitBake with hundreds of MiB.
_SMALL_VICTIM_BYTES = 192 << 20
_LARGE_VICTIM_BYTES = 1 << 30


def read_victim(found: re.Match[str]) -> Sign:
    """The kernel's line on its victim: of a cgroup it is a build's; of a whole machine by who it was, and how large."""
    name = found["program"]
    program = name if re.fullmatch(r"\S(?:.{0,62}\S)?", name) else None
    if found.groupdict().get("memcg") or "CONSTRAINT_MEMCG" in found.string:
        return Sign(STATED, "the kernel killed it for the container's limit", program)
    size = re.search(r"anon-rss:(\d+)kB", found.string)
    rss_bytes = int(size[1]) * 1024 if size else 0
    is_build = _BUILD_PROGRAM.fullmatch(name) is not None
    if is_build and _INTERPRETERS.fullmatch(name) and rss_bytes < _SMALL_VICTIM_BYTES:
        is_build = False
    if is_build or rss_bytes >= _LARGE_VICTIM_BYTES:
        return Sign(STATED, "the kernel killed it: the machine had no memory left", program)
    return Sign(DOUBT, "a kernel killed it for memory, perhaps that of another machine", program)


def read_trace(found: re.Match[str]) -> Sign:
    """What the kernel says around a kill: a compiler in it is a build's; who asked for memory is not who died."""
    groups = found.groupdict()
    program = groups.get("program")
    name = program or groups.get("asker") or ""
    name = name.rpartition(" ")[2]  # what stands before the message may look like a part of the name
    if _BUILD_PROGRAM.fullmatch(name) and not _INTERPRETERS.fullmatch(name):
        return Sign(STATED, "the kernel ran out of memory", program)
    return Sign(DOUBT, "a kernel ran out of memory, perhaps that of another machine", program)


def read_bazel(found: re.Match[str]) -> Sign:
    """Bazel's server that ended, by its last words: a kill leaves it none."""
    message = found["message"].strip().lower()
    if found["code"] == "14" and message in ("", "socket closed", "connection reset by peer"):
        return Sign(HINT, "Bazel's server vanished without a word", "bazel")
    return Sign(DOUBT, "Bazel's server ended; its jvm.out says why", "bazel")


def read_shutdown(found: re.Match[str]) -> Sign:
    """A runner that was shut down, and then cancelled its job: whether for memory only its host knows."""
    return Sign(DOUBT, "the runner was shut down", outweighs=(STOPPED, HINT))


# By the name of the group that a limit is found in.
_LIMITS = {
    "threads": ("no thread could be made: the limit of processes (pids.max, ulimit -u)", Remedy.THREADS),
    "pids": ("no process could be made: the limit of processes (pids.max)", Remedy.THREADS),
    "maps": ("the limit of mappings (vm.max_map_count)", Remedy.MAPPINGS),
    "space": ("the limit of the address space (ulimit -v, or what qemu can reserve)", Remedy.ADDRESS_SPACE),
    "data": ("the limit of a process's data (ulimit -d)", Remedy.ADDRESS_SPACE),
    "gpu": ("the graphics card ran out of memory, not the container", Remedy.USUAL),
    "remote": ("the git server ran out of memory, not the container", Remedy.USUAL),
}


def read_limit(found: re.Match[str]) -> Sign:
    """A limit other than the container's memory: by its name, whatever is said of memory beside it."""
    reason, remedy = _limit_of(found)
    return Sign(CAUSE, reason, outweighs=(STATED, KILLED, HINT), remedy=remedy)


def read_setting(found: re.Match[str]) -> Sign:
    """A limit that is set or spoken of: the cause only of memory that ended beside it."""
    reason, remedy = _limit_of(found)
    return Sign(WEAK, reason, outweighs=(STATED,), remedy=remedy)


def _limit_of(found: re.Match[str]) -> tuple[str, Remedy]:
    """The limit that a match names, and what helps."""
    return next(_LIMITS[name] for name, text in found.groupdict().items() if text)


def read_oomkilled(found: re.Match[str]) -> Sign:
    """OOMKilled, by whether "false" comes after it, as in the state of a container."""
    if re.match(r"[\\\"'\s]*[:=]?\s*false", found.string[found.end() :], re.IGNORECASE):
        return Sign(DOUBT, "the container runtime saw no kill of its main process", outweighs=(HINT,))
    return Sign(STATED, "the container was killed for its memory limit")
