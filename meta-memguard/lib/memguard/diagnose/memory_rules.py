# SPDX-License-Identifier: MIT
"""The ways in which memory ends, and how each is said in logs.

Runs in: task children and the `memguard` command; pure, a table.
Covers: rules that are looked for everywhere in a log.
Does not cover: other causes (other_rules.py); what a rule is (rule.py); what a match means in detail (readers.py).
To add one: a row here, and its wording in tests/fixtures/failure-logs.
"""

from __future__ import annotations

from memguard.diagnose.readers import (
    read_bazel,
    read_enomem,
    read_exhausted,
    read_oomkilled,
    read_process,
    read_sized,
    read_trace,
    read_v8,
    read_victim,
)
from memguard.diagnose.rule import DOUBT, HINT, KILLED, KILLED_WORDS, STATED, rule

# Anchored to the start of a line without prefixes wherever a tool begins it with its own name: source code, test names
# and command lines that hold the same words do not match. A rule is tried on lines that hold one of its words only.
_TOOL = r"(?:(?P<program>[\w./+@-]{1,200}?)(?:\[\d+\])?(?:\(\d+\))?: )"
_BY_SIGNAL_9 = r"(?:was )?(?:terminated|died|exited|killed) (?:with|by|on|due to|from) (?:signal 9\b|SIGKILL)"

MEMORY_RULES = (
    # The kernel. Old: "Kill process N (name) score M or sacrifice child", then "Killed process N (name) total-vm:".
    rule(
        STATED,
        "",
        "Kill process|Killed process|kill process",
        r"(?P<memcg>[Mm]emory cgroup )?(?:[Oo]ut of memory|OOM)(?: \(\w+\))?: [Kk]ill(?:ed)? process \d+,? ?"
        r"\((?P<program>[^)]*)\)",
        read=read_victim,
    ),
    rule(
        STATED,
        "",
        "Killed process",
        r"\bKilled process \d+,? \((?P<program>[^)]*)\),? (?:UID \d+,? )?(?:total-vm|vsz)",
        read=read_victim,
    ),
    rule(
        STATED,
        "",
        "oom-kill:",
        r"\boom-kill:constraint=CONSTRAINT_\w+,.*\btask=(?P<program>[^,]*),pid=\d+",
        read=read_victim,
    ),
    rule(STATED, "a cgroup reached its limit", "killed as a result", r"\bTask in \S+ killed as a result of limit of "),
    rule(
        STATED,
        "the kernel looked for a victim",
        "emory cgroup out of|no killable",
        r"\bMemory cgroup out of memory\b",
        r"\bOut of memory and no killable processes",
    ),
    rule(STATED, "", "oom_reaper", r"\boom_reaper: reaped process \d+ \((?P<program>[^)]*)\)", read=read_trace),
    rule(
        STATED, "", "oom-killer", r"(?:^|[\s\"'])(?P<asker>[^\s\"=][^\"=]{0,14}) invoked oom-killer: ", read=read_trace
    ),
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
        r"\bsending SIG(?:TERM|KILL) to process \d+ (?:uid \d+ )?\"(?P<program>[^\"]+)\": "
        r".*(?:badness|oom_score|VmRSS)",
    ),
    rule(
        STATED,
        "the kernel killed for memory while this build ran",
        "killed by the kernel for memory",
        r"\bmemguard: peak .*, [1-9]\d* killed by the kernel for memory",
    ),
    # Containers and runners.
    rule(STATED, "", "OOMKill|OOM Kill|OOM-kill|OOM kill", r"\bOOM[ -]?[Kk]ill(?:ed|ing)\b", read=read_oomkilled),
    rule(
        STATED,
        "the node or container had no memory left",
        ": memory|memory limit",
        r"[Nn]ode was low on resource: memory",
        r"\bContainer \S+ exceeded (?:its )?memory limit",
    ),
    rule(
        STATED,
        "the container or node had no memory left",
        'ystem OOM|SystemOOM|TaskOOM|OutOfMemory|container oom|"oom"|out of memory condition|/tasks/oom',
        r"\bSystem OOM encountered, victim process: (?P<program>[\w.+-]+)",
        r"\bSystemOOM\b|\bTaskOOM\b|\bOutOfMemoryKilled\b",
        r"\bcontainer oom [0-9a-f]{6,}|\"(?:status|[aA]ction|Type)\": ?\"oom\"|due to an out of memory condition\b",
        r"\bOutOfMemoryError: Container killed due to memory usage|\b/tasks/oom\b",
    ),
    rule(
        STATED,
        "the batch system killed it for its memory limit",
        "memory limit|oom_kill event|oom-kill event|emory limit|exceeded limit",
        r"\bExceeded (?:job|step) memory limit\b|\bDetected \d+ oom[_-]kill event",
        r"\bmem(?:ory)? .{0,40}\bexceeded limit\b|TERM_MEMLIMIT",
    ),
    # gcc, binutils and whatever allocates as they do. The sizes decide.
    rule(
        STATED,
        "",
        "ut of memory allocating",
        rf"^{_TOOL}?(?:.*: )?[Oo]ut of memory allocating (?P<asked>\d+) bytes"
        r"(?: after a total of (?P<total>\d+) bytes)?",
        read=read_sized,
    ),
    rule(
        STATED,
        "",
        "tried to allocate",
        r"\b[Ff]atal: Out of memory, \w+ failed \(tried to allocate (?P<asked>\d+) bytes\)",
        read=read_sized,
    ),
    rule(
        STATED,
        "",
        "cannot allocate ",
        rf"^{_TOOL}?(?:line \d+: )?x(?:m|re|c)alloc: (?:\S+: )?cannot allocate (?P<asked>\d+) bytes"
        r"(?: \((?P<total>\d+) bytes allocated\))?",
        read=read_sized,
    ),
    rule(STATED, "", "memory allocation of", r"\bmemory allocation of (?P<asked>\d+) bytes failed", read=read_sized),
    rule(
        STATED,
        "",
        "to commit|to alloc|to reserve|to realloc|annot alloc|ould not alloc",
        rf"^{_TOOL}?.*\b(?:[Uu]nable|[Ff]ailed|[Cc]annot|[Cc]ould not) (?:to )?"
        r"(?:commit|alloc(?:ate)?|reserve|realloc) (?P<asked>\d+) bytes",
        read=read_sized,
    ),
    rule(
        STATED,
        "no virtual memory was left",
        "irtual memory exhausted",
        rf"^{_TOOL}?(?:\*\*\* )?[Vv]irtual memory exhausted\b",
    ),
    rule(STATED, "", "emory exhausted", rf"^{_TOOL}(?:.*: )?[Mm]emory exhausted\.?$", read=read_exhausted),
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
        read=read_enomem,
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
    rule(
        STATED,
        "no memory was left",
        "emory exhausted by|ut of memory|emory allocation failed|nable to allocate|heap space|annot allocate",
        r"^(?P<program>dd): memory exhausted by (?:input|output) buffer of size \d+",
        r"^(?P<program>[\w.+-]*ghc[\w.-]*|cabal): out of memory \(requested \d+ bytes\)",
        r"^(?P<program>mksquashfs|unsquashfs|pigz|pbzip2|git): .*\b(?:[Oo]ut of memory|memory allocation failed)",
        r"^FATAL ERROR: ?Out of memory\b|^fatal: (?:Out of memory, \w+ failed|\w*mmap failed: Cannot allocate)",
        r"\b_ArrayMemoryError: Unable to allocate|\bfatal error C1060: compiler is out of heap space",
        r"\bfatal error (?:C1002|LNK1102): .*\bout of (?:heap space|memory)",
    ),
    rule(
        STATED,
        "the Java machine had no memory left",
        "Expiring Daemon|Out of memory error",
        r"\bExpiring Daemon because JVM (?:heap|Metaspace|Tenured)\S* .*exhausted|\bOut of memory error \(version ",
    ),
    # Language runtimes.
    rule(
        STATED,
        "Python had no memory left",
        "MemoryError",
        r"^(?:E\s+)?(?:[\w.]*\.)?MemoryError(?:$|:)|^ERROR: .*\bMemoryError$|^Exception: MemoryError\b",
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
        r"^(?:# ?)?(?:FATAL ERROR: .*)?"
        r"(?:.*Allocation failed - process out of memory|.*JavaScript heap out of memory|"
        r"Fatal (?:javascript|JavaScript|process) (?:OOM|out of memory)\b)",
        read=read_v8,
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
        read=read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "illed|Done(137)",
        r"^(?:[\w./@+-]+: )?line \d+: +\d+ (?:Killed(?:: 9)?|Done\(137\)) +(?P<program>\S.*)",
        r"^\[\d+\][+-]? +(?:\d+ )?[Kk]illed(?:: 9)? +(?P<victim>\S.*)",
        read=read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal: 9",
        r"didn't exit successfully: `(?P<program>[^`]*)`?.*\(signal: 9\b",
        r"^error: linking with `(?P<victim>[^`]+)` failed: signal: 9\b",
        read=read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal: killed",
        r"(?:^|[\s:(])(?P<program>[\w./+-]+?)(?: failed)?: signal: killed\b",
        read=read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "SIGKILL: 9|status -9",
        r"\bCommand '?\[?['\"]?(?P<program>[^'\",\]]+)"
        r".*(?:died with <Signals\.SIGKILL: 9>|non-zero exit status -9\b)",
        read=read_process,
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
        r"\breturned '?(?:137|-9)'?(?::| instead of)|\bnon-zero status: (?:137|-9)\b",
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "due to signal 9",
        r"\b(?P<program>builder) for '[^']*' failed due to signal 9\b",
        read=read_process,
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
        r"^(?:ERROR: )?(?:Bazel s|S)erver terminated abruptly "
        r"\(error code: (?P<code>\d+), error message: '?(?P<message>[^',]*)",
        read=read_bazel,
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
        r"^\{standard input\}:(?:\d+:)? "
        r"(?:Error: open CFI|Warning: end of file not at end of a line|Error: .*unfinished)",
    ),
)
