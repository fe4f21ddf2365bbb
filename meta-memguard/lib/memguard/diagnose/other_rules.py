# SPDX-License-Identifier: MIT
"""Causes other than memory, and how each is said in logs.

Runs in: task children and the `memguard` command; pure, a table.
Covers: rules that are looked for in the last part of a log.
See also: limit_rules.py, stop_rules.py, which come first.
Does not cover: memory (memory_rules.py); what a rule is (rule.py).
To add one: a row here, and its wording in tests/fixtures/failure-logs.
"""

from __future__ import annotations

from memguard.diagnose.limit_rules import LIMIT_RULES
from memguard.diagnose.rule import CAUSE, DOUBT, FAILED, KILLED_WORDS, WEAK, rule
from memguard.diagnose.stop_rules import STOP_RULES

_CRASH = r"(?:Segmentation fault|Bus error|Illegal instruction|Aborted|Floating point exception|Trace/breakpoint trap)"

# What reports of tests say. All else that stands in them only tells what was tested.
REPORT_RULES = (
    rule(
        WEAK,
        "a test failed",
        "FAIL|XPASS|ERROR|failed|E   |not ok|Fail|Timeout)|***|CTest",
        r"^(?:FAIL|FAILED|XPASS|ERROR): (?:\w+ ?\(|test)|\b[1-9]\d* (?:tests? )?failed\b|^# FAIL: +[1-9]|^E {3}\S",
        r"^not ok \d+|^\[  FAILED  \]|^--- FAIL: |^\d+ - \S+ \((?:Failed|Timeout)\)|^FAILED \((?:failures|errors)=",
        r"\*\*\*(?:Failed|Timeout|Exception)\b|^Errors while running CTest|\btest result: FAILED\b",
        r"\bdo_test\w+: .*\bfailed\b|^RESULTS - .*: FAILED",
    ),
)

OTHER_RULES = (
    *LIMIT_RULES,
    *STOP_RULES,
    rule(
        CAUSE,
        "BitBake's server could not be reached",
        "BlockingIOError",
        r"^BlockingIOError: \[Errno 11\] Resource temporarily unavailable",
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
        "signal: |target signal|fatal error has|SIG|panic|crash|Fatal Python|ode 13|tatus 13|corrupt|"
        "stack smash|invalid",
        r"\(signal: (?:11|6|7|4), SIG|\bqemu: uncaught target signal (?!9\b)\d+",
        r"\bfatal error has been detected by the Java Runtime Environment|\bSIG(?:SEGV|BUS|ILL|ABRT) \(0x",
        r"^thread '.*' panicked at|^panic: |^PLEASE submit a bug report to \S+ and include the crash|"
        r"^Fatal Python error: ",
        r"\b(?:exit(?:ed)?|[Ff]ailed|[Tt]erminated)\b.{0,40}\b(?:code|status)[ '\"]+13[2-69]\b",
        r"\*\*\* stack smashing detected \*\*\*|^(?:double free or corruption|(?:malloc|free)\(\): (?:corrupt|"
        r"invalid))",
    ),
    rule(
        CAUSE,
        "a compile error",
        "rror: |e: |: error |rror[E|: undefined|: cannot|: syntax",
        r"^(?!conftest|\{standard input\})(?:[^\s:][^:]{0,300}|[A-Z]:[^:]{1,300})"
        r":\d+(?::\d+)?:(?:\d+:)? (?:fatal )?[Ee]rror(?:\[E\d{4}\])?: ",
        r"^\S[^:]{0,300}\(\d+(?:,\d+)?\) ?: (?:fatal )?error |^e: \S+:\d+:\d+ ",
        r"^error\[E\d{4}\]|^\S+\.(?:java|kt|go|ts|vala|pyx):\d+(?::\d+)?: (?:error|undefined|cannot|syntax)",
        r"^(?:\S+: )?error: (?:aborting due to \d+|cannot find (?:crate|macro)|failed to resolve)",
    ),
    rule(
        CAUSE,
        "the link does not resolve",
        "undefined |cannot find -l|multiple definition|relocation trunc|duplicate symbol|internal error",
        r"\bundefined reference to\b|\bundefined symbol: |\bcannot find -l\w|\bmultiple definition of\b",
        r"\brelocation truncated to fit\b|\bduplicate symbol: |^\S*\bld(?:\.\w+)?: .*\binternal error\b",
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
        r"^(?!.*\bexit code '?(?:137|-9)\b)(?:ERROR: .*\b(?:Fetcher (?:failure|Error)|[Uu]nable to (?:fetch|"
        r"find (?:remote|revision|file)|resolve)|"
        r"Checksum (?:mismatch|failure))|.*\bFetcher failure\b|bb\.fetch2\.\w+)|\b[Cc]hecksum mismatch\b",
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
        "lost communication|waiting for container|system failure|was marked offline|hudson.remoting|"
        "hearing from agent|"
        "annot contact",
        r"\blost communication with the server\b",
        r"\bwaiting for container: (?:unexpected )?EOF|\bJob failed \(system failure\)",
        r"\bwas marked offline: Connection was broken|\bhudson\.remoting\.\w+Exception|"
        r"\bstopped hearing from agent\b|^Cannot contact \S+:",
    ),
    rule(
        DOUBT,
        "the connection to the machine was lost",
        "Connection to",
        r"^Connection to \S+ closed\.$",
    ),
    rule(
        DOUBT,
        "Gradle's daemon vanished",
        "aemon disappeared",
        r"\bGradle build daemon disappeared unexpectedly\b",
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
    *REPORT_RULES,
    rule(
        FAILED,
        "it failed, and no line says why",
        "ERROR|ERR!|*** |build stopped|link failed|FAILED|rror: |rror |non-zero code|failed with|FATAL|"
        "command failed|"
        "exit successfully|abort()ing",
        r"^ERROR: |^\S*make(?:\[\d+\])?: \*\*\* |^ninja: (?:build stopped|error)|^FAILED: |^scons: \*\*\*|"
        r"^BUILD FAILED|^FATAL: ",
        r"\berror: ld returned [1-9]|: final link failed: |\bfailed with exit code|\breturned a non-zero code|"
        r"^\S+: (?:fatal )?error: ",
        r"^[Ee]rror: |\b(?:linker|frontend) command failed|^npm (?:ERR!|error) |^docker: Error |"
        r"\bprocess didn't exit successfully: |^abort\(\)ing pseudo client\b",
    ),
)
