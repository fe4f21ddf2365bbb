# SPDX-License-Identifier: MIT
"""The ways of dying that logs tell of: how each is said, and how much it says.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: one line at a time, without its prefixes. Does not cover: weighing lines against each other (`failures`).
To add one: a rule in MEMORY_RULES (looked for everywhere) or TAIL_RULES (in the last part of a log).
"""

from __future__ import annotations

import re

from memguard.diagnose.rule import CAUSE, DOUBT, HINT, KILLED, STATED, named, program_in, rule

# strsignal(SIGKILL) as C libraries translate it; gcc and collect2 print it inside their own words.
KILLED_WORDS = (
    r"(?:Killed|killed|SIGKILL|Kill|Get(?:ö|oe)tet|Tu(?:é|\\303\\251)|Processus arr[êe]t[ée]|Unicestwiony|Ucciso|"
    r"Matado|"
    r"Terminado \(killed\)|Morto|Afgeschoten|Geforceerd beëindigd|Убито|Уничтожено|已杀死|已殺掉|強制終了(?:しました)?|"
    r"강제 종료됨|죽었음)"
)


_GIB = 1 << 30


def _is_absurd(asked_bytes: int, total_bytes: int | None = None) -> bool:
    """Whether no sane program asks for so much at once: what corrupt archives and objects make tools ask for.

    From 1 TiB on; a negative number that lost its sign (just below 2^31, 2^32); more than 1 GiB and 32 times all that
    the program had; from 64 GiB on where that is not known.
    """
    if asked_bytes >= 1 << 40 or any(0 <= wrap - asked_bytes <= 1 << 16 for wrap in (1 << 31, 1 << 32)):
        return True
    if total_bytes is None:
        return asked_bytes >= 64 * _GIB
    return asked_bytes > _GIB and asked_bytes > 32 * total_bytes


def _read_sized(found: re.Match[str]) -> tuple[int, str, str | None]:
    groups = found.groupdict()
    total = groups.get("total")
    program = program_in(groups.get("program"))
    if _is_absurd(int(groups["asked"]), int(total) if total else None):
        return CAUSE, "asked for more memory than any machine has: a corrupt input", program
    return STATED, "an allocation failed", program


_ARCHIVERS = {
    "tar",
    "bsdtar",
    "cpio",
    "unzip",
    "gunzip",
    "unxz",
    "bunzip2",
    "unzstd",
    "7z",
    "7za",
    "unrar",
    "ar",
    "file",
}


def _read_exhausted(found: re.Match[str]) -> tuple[int, str, str | None]:
    program = program_in(found["program"])
    if program in _ARCHIVERS:
        return DOUBT, "an archive asked for more memory than there was; it may be corrupt", program
    return STATED, "no memory was left", program


def _read_enomem(found: re.Match[str]) -> tuple[int, str, str | None]:
    whole, program = found.string, program_in(found["program"])
    if re.search(r"static TLS block|GPU|CUDA|OpenCL|HUGETLB|huge ?page", whole):
        return CAUSE, "a kind of memory ended that is not the container's", program
    if re.search(r"\b(?:mlock|io_uring\w*|io_setup|perf_event\w*|bpf|BPF|memlock|insmod|modprobe|unshare)\b", whole):
        return DOUBT, "a limit of its own (locked memory, namespaces, modules) says the same", program
    sized = re.search(r"\b(\d{6,})\b ?(?:bytes|B\b)", whole)
    if sized and _is_absurd(int(sized[1])):
        return CAUSE, "asked for more memory than any machine has: a corrupt input", program
    return STATED, "the system had no memory to give", program


def _read_process(found: re.Match[str]) -> tuple[int, str, str | None]:
    """A process that died of signal 9, by what is told of it."""
    program = named(found)
    return (KILLED if program else HINT), "killed by signal 9", program


def _read_v8(found: re.Match[str]) -> tuple[int, str, str | None]:
    if re.search(r"DateTime|Intl|ICU|Locale|Collator|NumberFormat|Segmenter|PluralRules|Calendar", found.string):
        return CAUSE, "V8 calls missing language data (ICU) out of memory", None
    return STATED, "the JavaScript engine had no memory left", None


_BUILD_PROGRAM = re.compile(
    r"(?:.*-)?(?:cc1\w*|lto1?\w*|lto1-\w+|lto-wrapper|ld|ld\.\w+|ld64\S*|lld|mold|collect2|as|gas|gcc|g\+\+|c\+\+|"
    r"cpp|gcc-\S+|"
    r"g\+\+-\S+|clang\S*|rustc|rustdoc|cargo|go|compile|link|cgo|asm|ghc\S*|ocaml\w*|f951|gnat1|d21|dmd|ldc2|"
    r"swift\S*|"
    r"java|javac|kotlin\S*|gradle|bazel\S*|node|npm|yarn|mksnapshot|torque|python[\d.]*|perl|bitbake\S*|Cooker|"
    r"Parser-\d+|"
    r"Worker\S*|make|gmake|ninja|samu|cmake|meson|xz|zstd|pzstd|pixz|pigz|gzip|bzip2|tar|rpm\S*|dpkg\S*|opkg\S*|"
    r"dnf|pahole|"
    r"mkfs\S*|mksquashfs|mke2fs|resize2fs|genautomata|gen\w+|moc|rcc|uic|qml\w+|protoc|flatc|llvm-\S+|opt|llc|swipl|"
    r"objcopy|objdump|strip|nm|ar|ranlib|dwz|debugedit|qemu-\S+|sh|bash|dash)"
)
_INTERPRETERS = re.compile(r"python[\d.]*|perl|sh|bash|dash|ruby|lua")
# The kernel takes the largest; the largest of a build host is a compiler, a linker or BitBake with hundreds of MiB.
_SMALL_VICTIM_BYTES = 192 << 20
_LARGE_VICTIM_BYTES = 1 << 30


def _read_victim(found: re.Match[str]) -> tuple[int, str, str | None]:
    """The kernel's line on its victim: of a cgroup it is a build's; of a whole machine by who it was, and how large."""
    name = found["program"]
    program = name if re.fullmatch(r"\S(?:.{0,62}\S)?", name) else None
    if found.groupdict().get("memcg") or "CONSTRAINT_MEMCG" in found.string:
        return STATED, "the kernel killed it for the container's limit", program
    size = re.search(r"anon-rss:(\d+)kB", found.string)
    rss_bytes = int(size[1]) * 1024 if size else None
    is_build = _BUILD_PROGRAM.fullmatch(name) is not None
    if is_build and _INTERPRETERS.fullmatch(name) and (rss_bytes or 0) < _SMALL_VICTIM_BYTES:
        is_build = False
    if is_build or (rss_bytes is not None and rss_bytes >= _LARGE_VICTIM_BYTES):
        return STATED, "the kernel killed it: the machine had no memory left", program
    return DOUBT, "a kernel killed it for memory, perhaps that of another machine", program


def _read_trace(found: re.Match[str]) -> tuple[int, str, str | None]:
    """What the kernel says around a kill: a compiler in it is a build's; who asked for memory is not who died."""
    groups = found.groupdict()
    name = groups.get("program") or groups.get("asker") or ""
    is_build = _BUILD_PROGRAM.fullmatch(name) is not None and not _INTERPRETERS.fullmatch(name)
    if is_build:
        return STATED, "the kernel ran out of memory", groups.get("program")
    return DOUBT, "a kernel ran out of memory, perhaps that of another machine", groups.get("program")


def _read_bazel(found: re.Match[str]) -> tuple[int, str, str | None]:
    message = found["message"].strip().lower()
    if found["code"] == "14" and message in ("", "socket closed", "connection reset by peer"):
        return HINT, "Bazel's server vanished without a word", "bazel"
    return DOUBT, "Bazel's server ended; its jvm.out says why", "bazel"


def _read_oomkilled(found: re.Match[str]) -> tuple[int, str, str | None]:
    if re.match(r"[\"'\s]*[:=]?\s*false", found.string[found.end() :], re.IGNORECASE):
        return DOUBT, "the container runtime saw no kill of its main process", None
    return STATED, "the container was killed for its memory limit", None


# Anchored to the start of a line without prefixes wherever a tool begins it with its own name: source code, test names
# and command lines that hold the same words do not match. A rule is tried on lines that hold one of its words only.
_TOOL = r"(?:(?P<program>[\w./+@-]{1,200}?)(?:\[\d+\])?(?:\(\d+\))?: )"
_BY_SIGNAL_9 = r"(?:was )?(?:terminated|died|exited|killed) (?:with|by|on|due to|from) (?:signal 9\b|SIGKILL)"
CRASH = r"(?:Segmentation fault|Bus error|Illegal instruction|Aborted|Floating point exception|Trace/breakpoint trap)"

MEMORY_RULES = (
    # The kernel. Old: "Kill process N (name) score M or sacrifice child", then "Killed process N (name) total-vm:".
    rule(
        STATED,
        "",
        "Kill process|Killed process|kill process",
        r"(?P<memcg>[Mm]emory cgroup )?(?:[Oo]ut of memory|OOM)(?: \(\w+\))?: [Kk]ill(?:ed)? process \d+,? ?"
        r"\((?P<program>[^)]*)\)",
        read=_read_victim,
    ),
    rule(
        STATED,
        "",
        "Killed process",
        r"\bKilled process \d+,? \((?P<program>[^)]*)\),? (?:UID \d+,? )?(?:total-vm|vsz)",
        read=_read_victim,
    ),
    rule(
        STATED,
        "",
        "oom-kill:",
        r"\boom-kill:constraint=CONSTRAINT_\w+,.*\btask=(?P<program>[^,]*),pid=\d+",
        read=_read_victim,
    ),
    rule(STATED, "a cgroup reached its limit", "killed as a result", r"\bTask in \S+ killed as a result of limit of "),
    rule(
        STATED,
        "the kernel looked for a victim",
        "emory cgroup out of|no killable",
        r"\bMemory cgroup out of memory\b",
        r"\bOut of memory and no killable processes",
    ),
    rule(STATED, "", "oom_reaper", r"\boom_reaper: reaped process \d+ \((?P<program>[^)]*)\)", read=_read_trace),
    rule(STATED, "", "oom-killer", r"(?:^|\s)(?P<asker>\S.{0,14}) invoked oom-killer: ", read=_read_trace),
    rule(
        STATED,
        "the kernel killed it: no memory, no swap",
        "was killed:",
        r"\bpid \d+ \((?P<program>[^)]*)\),.* was killed: "
        r"(?:out of swap space|failed to reclaim memory|a thread waited too long)",
    ),
    rule(
        STATED,
        "systemd-oomd killed it",
        "due to memory|Killed /",
        r"\bKilled \S+ due to (?:memory|swap) (?:pressure|used)",
    ),
    rule(
        STATED,
        "the kernel killed it",
        "OOM killer|oom-kill",
        r"has been killed by the OOM killer|Failed with result 'oom-kill'|: oom-kill\b",
    ),
    rule(
        STATED,
        "earlyoom killed it",
        "sending SIG",
        r"\bsending SIG(?:TERM|KILL) to process \d+ (?:uid \d+ )?\"(?P<program>[^\"]+)\": .*(?:badness|oom_score|"
        r"VmRSS)",
    ),
    rule(
        STATED,
        "the kernel killed for memory while this build ran",
        "killed by the kernel for memory",
        r"\bmemguard: peak .*, [1-9]\d* killed by the kernel for memory",
    ),
    # Containers and runners.
    rule(STATED, "", "OOMKill|OOM Kill|OOM-kill|OOM kill", r"\bOOM[ -]?[Kk]ill(?:ed|ing)\b", read=_read_oomkilled),
    rule(
        STATED,
        "the node or container had no memory left",
        ": memory|memory limit",
        r"[Nn]ode was low on resource: memory",
        r"\bContainer \S+ exceeded (?:its )?memory limit",
    ),
    # gcc, binutils and whatever allocates as they do. The sizes decide.
    rule(
        STATED,
        "",
        "ut of memory allocating",
        rf"^{_TOOL}?(?:.*: )?[Oo]ut of memory allocating (?P<asked>\d+) bytes"
        r"(?: after a total of (?P<total>\d+) bytes)?",
        read=_read_sized,
    ),
    rule(
        STATED,
        "",
        "tried to allocate",
        r"\b[Ff]atal: Out of memory, \w+ failed \(tried to allocate (?P<asked>\d+) bytes\)",
        read=_read_sized,
    ),
    rule(
        STATED,
        "",
        "cannot allocate ",
        rf"^{_TOOL}?(?:line \d+: )?x(?:m|re|c)alloc: (?:\S+: )?cannot allocate (?P<asked>\d+) bytes"
        r"(?: \((?P<total>\d+) bytes allocated\))?",
        read=_read_sized,
    ),
    rule(STATED, "", "memory allocation of", r"\bmemory allocation of (?P<asked>\d+) bytes failed", read=_read_sized),
    rule(
        STATED,
        "",
        "to commit|to alloc|to reserve|to realloc|annot alloc|ould not alloc",
        rf"^{_TOOL}?.*\b(?:[Uu]nable|[Ff]ailed|[Cc]annot|[Cc]ould not) (?:to )?"
        r"(?:commit|alloc(?:ate)?|reserve|realloc) (?P<asked>\d+) bytes",
        read=_read_sized,
    ),
    rule(
        STATED,
        "no virtual memory was left",
        "irtual memory exhausted",
        rf"^{_TOOL}?(?:\*\*\* )?[Vv]irtual memory exhausted\b",
    ),
    rule(STATED, "", "emory exhausted", rf"^{_TOOL}(?:.*: )?[Mm]emory exhausted\.?$", read=_read_exhausted),
    rule(
        STATED,
        "no memory was left",
        "ut of memory",
        rf"^(?:FATAL ERROR: )?{_TOOL}?(?:\*\*\* )?(?:(?:fatal |internal |fatal run-time )?[Ee]rror: )?"
        r"[Oo]ut of memory(?:[.!]*$| (?:in|while|during|when|trying)\b)",
    ),
    rule(
        STATED,
        "LLVM had no memory left",
        "LLVM ERROR",
        r"(?:^|: |rustc-)LLVM ERROR: (?:out of memory|Allocation failed|Unable to allocate)",
    ),
    rule(
        STATED,
        "C++ could not allocate",
        "bad_alloc",
        r"\bthrowing an instance of '?std::bad_alloc|\bwhat\(\): +std::bad_alloc|^(?:.*: )?std::bad_alloc$",
    ),
    # errno 12, by whoever says it near the end of a line, as programs do.
    rule(
        STATED,
        "",
        "annot allocate memory|rrno 12|rrno: 12|os error 12|ENOMEM",
        rf"^{_TOOL}?.*(?:\b[Cc]annot allocate memory\b|\[?[Ee]rrno[ :]{{1,2}}12\b|\(os error 12\)|\bENOMEM\b|"
        r"\blzma_\w+\(?\)?.{0,40}status 11\b)"
        r"(?=$|\s*[:;,.()\[\]\"'\\]|\s+(?:in static|for|while|when|on|-|cannot|Cannot)\b)",
        read=_read_enomem,
    ),
    rule(
        STATED,
        "the compressor had no memory left",
        "enough memory|emory allocation failed|t allocate",
        r"^(?P<program>\w*(?:zstd|xz|lzma|bzip2|lz4|zopfli|cargo-deb))\b.*"
        r"(?:not enough memory|[Mm]emory allocation failed|[Cc]ouldn'?t allocate)",
    ),
    rule(
        DOUBT,
        "a memory limit given to the compressor",
        "emory usage limit",
        r"^(?:xz|lzma|unxz|zstd): .*[Mm]emory usage limit",
    ),
    # Language runtimes.
    rule(
        STATED,
        "Python had no memory left",
        "MemoryError",
        r"^(?:E\s+)?(?:[\w.]*\.)?MemoryError(?:$|:)|^ERROR: .*\bMemoryError$",
        r"\bfailed to allocate memory \((?:NoMemoryError)\)",
    ),
    rule(
        STATED,
        "Go had no memory left",
        "out of memory|cannot allocate memory",
        r"^(?:fatal error: )?runtime: (?:out of memory|cannot allocate memory)",
        r"^fatal error: (?:out of memory|cannot allocate memory)",
    ),
    rule(
        STATED,
        "the runtime had no memory left",
        "Out_of_memory|OutOfMemoryException",
        r"^Fatal error: exception (?:Stdlib\.)?Out_of_memory|\bSystem\.OutOfMemoryException\b",
    ),
    rule(
        DOUBT,
        "no thread could be made: memory, or a limit of processes",
        "OutOfMemoryError",
        r"java\.lang\.OutOfMemoryError: .*native thread",
    ),
    rule(
        STATED,
        "the Java machine had no memory left",
        "OutOfMemoryError|ran out of memory and",
        r"\bjava\.lang\.OutOfMemoryError\b|\bbazel ran out of memory and crashed",
    ),
    rule(
        STATED,
        "the Java machine got no memory",
        "ufficient memory|commit_memory|memory allocation (|enough space for",
        r"There is insufficient memory for the Java Runtime",
        r"\bos::commit_memory\(.*(?:errno=12|Cannot allocate memory|Not enough space)",
        r"Native memory allocation \(m\w+\) failed to ",
        r"Could not reserve enough space for (?:\w+ )?(?:object heap|heap)",
    ),
    rule(
        STATED,
        "",
        "process out of memory|heap out of memory|script OOM|script out of memory|process OOM|t OOM in",
        r"^(?:# ?)?(?:FATAL ERROR: .*)?(?:.*Allocation failed - process out of memory|"
        r".*JavaScript heap out of memory|"
        r"Fatal (?:javascript|JavaScript|process) (?:OOM|out of memory)\b)",
        read=_read_v8,
    ),
    # Killed, with a name.
    rule(
        KILLED,
        "the compiler was killed by signal 9",
        "internal compiler error|signal terminated program|rror: Killed",
        rf"\binternal compiler error: {KILLED_WORDS} \(program (?P<program>[^)]+)\)",
        rf"^{_TOOL}(?:.*: )?{KILLED_WORDS} signal terminated program (?P<victim>\S+)",
        rf"^{_TOOL}(?:fatal error|internal compiler error|error): {KILLED_WORDS}$",
    ),
    rule(
        KILLED,
        "the compiler was killed by signal 9",
        "execute command: Killed",
        r"^(?P<program>\S*(?:clang|flang|swift|hipcc|nvcc|icpx?|dpcpp)\S*): error: unable to execute command: Killed",
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal 9|SIGKILL",
        rf"(?:^|[:\s])['\"`]?(?P<program>[\w./+-]+)['\"`]? {_BY_SIGNAL_9}",
        read=_read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "illed|Done(137)",
        r"^(?:[\w./@+-]+: )?line \d+: +\d+ (?:Killed(?:: 9)?|Done\(137\)) +(?P<program>\S.*)",
        r"^\[\d+\][+-]? +(?:\d+ )?[Kk]illed(?:: 9)? +(?P<victim>\S.*)",
        read=_read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal: 9",
        r"didn't exit successfully: `(?P<program>[^`]*)`?.*\(signal: 9\b",
        r"^error: linking with `(?P<victim>[^`]+)` failed: signal: 9\b",
        read=_read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal: killed",
        r"(?:^|[\s:(])(?P<program>[\w./+-]+?)(?: failed)?: signal: killed\b",
        read=_read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "SIGKILL: 9|status -9",
        r"\bCommand '?\[?['\"]?(?P<program>[^'\",\]]+).*(?:died with <Signals\.SIGKILL: 9>|"
        r"non-zero exit status -9\b)",
        read=_read_process,
    ),
    rule(
        KILLED,
        "BitBake's own process was killed by signal 9",
        "-9)",
        r"\b(?P<program>[\w-]+) process \(\d+\) exited unexpectedly \(-9\)",
    ),
    rule(KILLED, "killed by signal 9", "target signal 9", r"^qemu: uncaught target signal 9\b"),
    # Killed, nobody in particular.
    rule(
        HINT,
        "something was killed by signal 9",
        "illed",
        r"^(?:zsh: )?[Kk]illed(?:: 9)?(?: {2,}\S.*)?$|^/\S+: \d+: +Killed$|\bline \d+: +\d+ Killed$",
        r"^\(Killed\)|\bfailed: \(Killed\)|\bkilled by signal \(Killed\)",
    ),
    rule(
        HINT,
        "a command was killed by signal 9",
        "Killed|137|Error -9|Signal 9",
        r"^\S*make(?:\[\d+\])?: \*\*\* (?:\[[^\]]*\] ?)?(?:[^ ]* )?(?:Killed\b|Error 137\b|Error -9\b)",
        r"^\*\*\* (?:\[[^\]]*\] )?(?:Signal 9\b|Error code 137\b)|^scons: \*\*\* \[[^\]]*\] Error -9\b",
    ),
    rule(
        HINT,
        "ended with status 137, that is signal 9",
        "137|-9",
        r"\bexit 137 from '(?P<program>[^']*)",
        r"^FAILED: \[code=137\]|\(Exit 137\)|\bexited (?:with )?137\b|\bexit 137$|\b[Nn]on-zero code: 137\b",
        r"\b[Ee]xit ?[Cc]ode\"?'?\s*[:=]\s*\"?137\b",
        r"\b(?:[Ee]xit(?:ed)?|[Rr]eturn(?:ed)?|[Tt]erminated|[Ff]ailed)\b[\w\s,'\"().:-]{0,60}?"
        r"\b(?:with |code|status|value)[\w\s:='\"()]{0,20}?(?<![\w.])(?:137|-9)(?!\w|\.\d|%|-\d)",
    ),
    rule(
        HINT,
        "killed by signal 9",
        "signal 9|signal: 9|SIGKILL",
        r"\b(?:[Kk]illed|[Tt]erminated|[Aa]borted|died|exited|interrupted|received|caught)\b[\w\s,:'\"()-]{0,40}"
        r"\b(?:signal:? ?9\b|SIGKILL\b)",
    ),
    rule(HINT, "a worker process was killed", "terminated abruptly", r"\bin the process pool was terminated abruptly"),
    rule(
        HINT,
        "",
        "terminated abruptly",
        r"^(?:ERROR: )?(?:Bazel s|"
        r"S)erver terminated abruptly \(error code: (?P<code>\d+), error message: '?(?P<message>[^',]*)",
        read=_read_bazel,
    ),
    rule(
        HINT,
        "Bazel's server vanished without a word",
        "Bazel server",
        r"\bunexpected EOF from (?P<program>Bazel) server",
    ),
    rule(
        HINT,
        "the compiler that fed the assembler broke off",
        "{standard input}",
        r"^\{standard input\}:(?:\d+:)? (?:Error: open CFI|Warning: end of file not at end of a line|"
        r"Error: .*unfinished)",
    ),
)


DEVICE = re.compile(
    r"\(oe-user@oe-host\)|\blogin: ?$|^U-Boot (?:SPL )?\d{4}\.|^Starting kernel \.\.\.|"
    r"\bBooting Linux on (?:physical CPU|hart)\b|"
    r"\b(?:do_testimage|TESTIMAGE)\b|^RESULTS - |\bMachine model: |\bHardware name: .*\((?:DT|Flattened)|"
    r"\bHardware name: .*(?:Generic \w+ \(|BeagleB|Raspberry|i\.MX)|"
    r"\bCPU: \d+ .*\bComm: .*-(?:yocto|poky|openbmc|fslc|ti|imx|xilinx|tegra|lmp)\b|^root@[\w-]+:[~/]\S*# |"
    r"/dev/tty(?:S|AMA|mxc|O|USB|PS)\d"
)
KERNEL = re.compile(
    r"\boom|\bOut of memory: [Kk]ill|\bKilled process \d+|\bMemory cgroup|\boom-kill|\bTask in \S+ killed"
)
