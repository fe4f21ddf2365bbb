# SPDX-License-Identifier: MIT
"""Causes other than memory, and how each is said in logs.

Runs in: task children and the `memguard` command; pure, a table.
Covers: rules that are looked for in the last part of a log.
Does not cover: memory (memory_rules.py); what a rule is (rule.py).
To add one: a row here, and its wording in tests/fixtures/failure-logs.
"""

from __future__ import annotations

from memguard.diagnose.readers import read_limit, read_shutdown
from memguard.diagnose.rule import CAUSE, DOUBT, FAILED, KILLED_WORDS, STOPPED, WEAK, rule

_CRASH = r"(?:Segmentation fault|Bus error|Illegal instruction|Aborted|Floating point exception|Trace/breakpoint trap)"

OTHER_RULES = (
    rule(
        CAUSE,
        "",
        "EAGAIN|Out of system resources|max_map_count|ddress space|virtual memory limit|CUDA|pinned memory|GPU",
        r"\b(?P<threads>pthread_create(?:: | failed \()EAGAIN|Cannot create .{0,40}thread\. Out of system resources)",
        r"(?P<maps>\bvm\.max_map_count\b)",
        r"(?P<space>\b[Uu]nable to reserve \S+ bytes of (?:virtual )?address space|\bvirtual memory limit\b.*exceed)",
        r"(?P<gpu>\bCUDA error: out of memory|\bCUDA_ERROR_OUT_OF_MEMORY|\bpinned memory: out of memory|"
        r"\bCUDA out of memory)",
        read=read_limit,
    ),
    rule(
        STOPPED,
        "the machine was shut down",
        "node shutdown|spot instance|preempt|Preempt|hutting down",
        r"\bimminent node shutdown\b|\bspot instance interruption|\b(?:instance|node|VM) (?:was|is being) preempted\b",
        r"\b(?:Agent|[Nn]ode|[Ss]ystem) is (?:shutting down|going down)\b",
    ),
    rule(
        CAUSE,
        "the node's disk space for containers ended",
        "ephemeral",
        r"low on resource: ephemeral-storage|[Ee]phemeral (?:local )?storage .*exceed",
    ),
    rule(
        CAUSE,
        "BitBake's server could not be reached",
        "BlockingIOError",
        r"^BlockingIOError: \[Errno 11\] Resource temporarily unavailable",
    ),
    rule(CAUSE, "TeX reached a capacity of its own", "TeX capacity", r"^! TeX capacity exceeded"),
    rule(
        DOUBT,
        "",
        "shutdown signal",
        r"\brunner has received a shutdown signal",
        read=read_shutdown,
    ),
    rule(
        STOPPED,
        "the build was interrupted",
        "nterrupt|^C",
        r"Keyboard ?Interrupt|^\^C|^make(?:\[\d+\])?: \*\*\* .*\bInterrupt$|\binterrupted by user\b|"
        r"\bsignal: interrupt\b",
    ),
    rule(
        STOPPED,
        "the build was stopped by a time limit",
        "imed out|execution t|imeout|DeadlineExceeded|killing it after|No output has",
        r"\b[Bb]uild timed out\b|\bexceeded the maximum execution time|\bexecution took longer than \S+ seconds",
        r"\btimeout: sending signal \w+ to command|\btimed out after \d+ (?:seconds|minutes|hours)",
        r"\bTimeout has been exceeded|\bDeadlineExceeded\b|\bkilling it after \d+",
        r"\bNo output has been received in the last|\bState '\S+' timed out\. Killing",
    ),
    rule(
        STOPPED,
        "the build was cancelled",
        "ancel|borted",
        r"\b[Tt]he operation was cancell?ed\b|\bJob failed: cancell?ed|\b[Aa]borted by \S",
        r"^(?:Build|Job) (?:was )?(?:aborted|cancell?ed)\b|\b[Cc]anceling since a higher priority",
    ),
    rule(
        STOPPED,
        "the build was told to end (SIGTERM)",
        "Terminated|143",
        r"^\S*make(?:\[\d+\])?: \*\*\* .*\bTerminated$|^Terminated$|\bexit(?:ed)? (?:with )?(?:code|status) '?143\b",
    ),
    rule(
        CAUSE,
        "the disk is full",
        "No space left|disk space|uota exceeded|ENOSPC|out of disk",
        r"No space left on device|\bdisk space monitor action is \"?(?:STOPTASKS|STOP|ABORT|HALT)|"
        r"Disk quota exceeded",
        r"\bENOSPC\b|lack of disk space|ran out of disk",
    ),
    rule(
        CAUSE,
        "the compiler crashed",
        "internal compiler error|signal terminated program",
        rf"(?:^|: ){_CRASH} signal terminated program (?P<program>\S+)",
        rf"\binternal compiler error: (?!{KILLED_WORDS}(?:$|\W))[^(]*(?:\(program (?P<program>[^)]+)\))?",
    ),
    rule(
        CAUSE,
        "the compiler crashed",
        "unable to execute|frontend command",
        r"^(?P<program>\S*(?:clang|flang|rustc)\S*): error: "
        r"(?:unable to execute command: (?:Segmentation|Abort|Illegal|Bus)|"
        r"clang frontend command failed with exit code 1(?:34|39))",
    ),
    rule(
        CAUSE,
        "a program crashed",
        "fault|Bus error|Illegal instr|Aborted|exception|trap",
        rf"^(?:[\w./@+-]+: )?line \d+: +\d+ {_CRASH} +(?:\(core dumped\) +)?(?P<program>\S.*)",
        rf"^\S*make(?:\[\d+\])?: \*\*\* .*\b{_CRASH}|^{_CRASH}(?: \(core dumped\))?$",
        r": signal: (?:segmentation fault|aborted|bus error)",
    ),
    rule(
        CAUSE,
        "a program crashed",
        "signal: |target signal|fatal error has|SIG|panic|crash|Fatal Python",
        r"\(signal: (?:11|6|7|4), SIG|\bqemu: uncaught target signal (?!9\b)\d+",
        r"\bfatal error has been detected by the Java Runtime Environment|\bSIG(?:SEGV|BUS|ILL|ABRT) \(0x",
        r"^thread '.*' panicked at|^panic: |^PLEASE submit a bug report to \S+ and include the crash|"
        r"^Fatal Python error: ",
    ),
    rule(
        CAUSE,
        "a compile error",
        "rror: |rror[E|: undefined|: cannot|: syntax",
        r"^(?!conftest|\{standard input\})(?:[^\s:][^:]{0,300}|[A-Z]:[^:]{1,300})"
        r":\d+(?::\d+)?:(?:\d+:)? (?:fatal )?[Ee]rror: ",
        r"^error\[E\d{4}\]|^\S+\.(?:java|kt|go|ts|vala|pyx):\d+(?::\d+)?: (?:error|undefined|cannot|syntax)",
        r"^(?:\S+: )?error: (?:aborting due to \d+|cannot find (?:crate|macro)|failed to resolve)",
    ),
    rule(
        CAUSE,
        "the link does not resolve",
        "undefined |cannot find -l|multiple definition|relocation trunc|duplicate symbol",
        r"\bundefined reference to\b|\bundefined symbol: |\bcannot find -l\w|\bmultiple definition of\b",
        r"\brelocation truncated to fit\b|\bduplicate symbol: ",
    ),
    rule(
        CAUSE,
        "an input is corrupt",
        "truncated|not recognized|nexpected end|format|tar archive|orrupt|integrity|bad magic|invalid ",
        r"\bfile (?:truncated|format not recognized)|\bUnexpected end of (?:file|input|archive)|"
        r"does not look like a tar archive",
        r"\bnot in (?:gzip|xz|lzma|zstd) format|\b[Cc]orrupt(?:ed)? (?:input|archive|data|file|object|deflate|rmeta)",
        r"\bdata is corrupt|--format violated|data integrity error|\bbad magic\b|"
        r"\binvalid (?:tar|archive|zip) (?:header|magic)",
    ),
    rule(
        CAUSE,
        "a fetch failed",
        "etcher |nable to |hecksum |bb.fetch2",
        r"^ERROR: .*\b(?:Fetcher (?:failure|Error)|[Uu]nable to (?:fetch|find (?:remote|revision|file)|resolve)|"
        r"Checksum (?:mismatch|failure))|\bFetcher failure\b|^bb\.fetch2\.\w+|\b[Cc]hecksum mismatch\b",
    ),
    rule(
        CAUSE,
        "a patch does not apply",
        "Hunk #|patch |quilt|to patch at",
        r"\bHunk #\d+ FAILED|\bpatch does not apply\b|^ERROR: Command Error: 'quilt|can't find file to patch at",
        r"\bApplying patch '?\S+'? (?:on target directory|failed)",
    ),
    rule(CAUSE, "a QA check failed", "QA ", r"^ERROR: .*\bQA Issue: |\bFatal QA errors\b"),
    rule(
        CAUSE,
        "the configuration is wrong",
        "configure: error|CMake Error|ERROR: ",
        r"^configure: error: |^CMake Error\b|^\S*meson\.build:\d+:\d+: ERROR: |^ERROR: (?:Unable to parse|Nothing )",
        r"^ERROR: .*(?:Nothing (?:R?PROVIDES)|not found in base feeds|is not compatible with|ParseError|"
        r"Unable to get checksum|required by|No recipes? (?:available|to))",
    ),
    rule(
        CAUSE,
        "a limit of processes",
        "temporarily unavailable|OS thread|new thread|pthread_create",
        r"\bfork: (?:retry: )?Resource temporarily unavailable|\bfailed to create new OS thread\b",
        r"\bcan't start new thread\b|\bpthread_create failed\b",
    ),
    rule(CAUSE, "no rule makes a file", "No rule to make", r"\bNo rule to make target\b"),
    rule(
        CAUSE,
        "V8 asked for a size that cannot be",
        "invalid size|Invalid ",
        r"Fatal JavaScript invalid size error|Invalid (?:array|table) size",
    ),
    # Perhaps.
    rule(
        DOUBT,
        "the linker crashed",
        "terminated with signal",
        r"(?:^|\s)(?P<program>\S*ld(?:\.\w+)?|lld|collect2) terminated with signal (?:11|6|7)\b",
    ),
    rule(DOUBT, "no process could be made", "annot fork", r"^(?:\S+: )?(?:\d+: )?Cannot fork$"),
    rule(
        DOUBT,
        "the runner was lost",
        "lost communication|waiting for container|system failure|was marked offline|hudson.remoting",
        r"\blost communication with the server\b",
        r"\bwaiting for container: (?:unexpected )?EOF|\bJob failed \(system failure\)",
        r"\bwas marked offline: Connection was broken|^hudson\.remoting\.\w+Exception",
    ),
    rule(
        DOUBT,
        "BitBake's server did not answer",
        "reply from",
        r"\bNo reply from server in \d+s|waiting for a reply from the bitbake server",
    ),
    rule(
        WEAK,
        "a script raised an exception",
        "Error|Exception",
        r"^(?!hudson)(?:[\w.]+\.)?(?!Memory|CalledProcess|Execution)(?:[A-Z]\w*(?:Error|Exception))(?::|$)"
        r"(?!.*(?:Errno 12|allocate memory|SIGKILL|exit status -9|exit status 137|errno 12))",
    ),
    rule(
        WEAK,
        "the network failed",
        "No route|not resolve|name resolution|unreachable|early EOF|requested URL|Connection ",
        r"\bNo route to host\b|\b[Cc]ould not resolve (?:host|proxy)|\bTemporary failure in name resolution",
        r"\bNetwork is unreachable|\b(?:early EOF|The requested URL returned error)|"
        r"\bConnection (?:refused|timed out)\b",
    ),
    rule(
        WEAK,
        "a program or file is missing",
        "not found|No such file|annot find|be found|not available|127|shared object",
        r"\bcommand not found\b|^(?:\S+: )?\d+: \S+: not found$|: not found$|\bNo such file or directory\b|"
        r"\bcannot find\b",
        r"could not be found\b|\bis not available\b|\bError 127\b|cannot open shared object file|exit code '?127\b",
    ),
    rule(
        WEAK,
        "a permission is missing",
        "denied|not permitted|Read-only",
        r"\b(?:Permission denied|Operation not permitted|Read-only file system)\b",
    ),
    rule(
        WEAK,
        "a test failed",
        "FAIL|XPASS|ERROR|failed|E   ",
        r"^(?:FAIL|FAILED|XPASS|ERROR): (?:\w+ ?\(|test)|\b[1-9]\d* (?:tests? )?failed\b|^# FAIL: +[1-9]|^E {3}\S",
    ),
    rule(
        FAILED,
        "it failed; no line tells why",
        "ERROR|*** |build stopped|link failed|FAILED|rror: |non-zero code|failed with|FATAL|command failed",
        r"^ERROR: |^\S*make(?:\[\d+\])?: \*\*\* |^ninja: (?:build stopped|error)|^FAILED: |^scons: \*\*\*|"
        r"^BUILD FAILED|^FATAL: ",
        r"\berror: ld returned [1-9]|: final link failed: |\bfailed with exit code|\breturned a non-zero code|"
        r"^\S+: (?:fatal )?error: ",
        r"^[Ee]rror: |\b(?:linker|frontend) command failed",
    ),
)
