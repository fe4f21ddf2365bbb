# SPDX-License-Identifier: MIT
"""How a death by signal 9 is said: which a kernel sends for memory, and people and time limits for other reasons.

Runs in: task children and the `memguard` command; pure, a table.
Does not cover: who else may have sent it (stop_rules.py).
"""

from __future__ import annotations

from memguard.diagnose.readers import read_bazel, read_process
from memguard.diagnose.rule import HINT, KILLED, KILLED_WORDS, TOOL, rule

_BY_SIGNAL_9 = r"(?:was )?(?:terminated|died|exited|killed) (?:with|by|on|due to|from) (?:signal 9\b|SIGKILL)"
_STATUS = r"(?<![\w.])(?:-?137|-9)(?!\w|\.\d|%|-\d)"

KILL_RULES = (
    # With a name.
    rule(
        KILLED,
        "the compiler was killed by signal 9",
        "nternal compiler error|nternal error|signal terminated program|rror: ",
        rf"\b[Ii]nternal (?:compiler )?error: {KILLED_WORDS} \(program (?P<program>[^)]+)\)",
        rf"^(?:{TOOL}(?:.*: )?)?{KILLED_WORDS} signal terminated program (?P<victim>\S+)",
        rf"^{TOOL}(?:fatal error|internal compiler error|error): {KILLED_WORDS}$",
    ),
    rule(
        HINT,
        "the compiler was killed by signal 9",
        "internal compiler error",
        rf":\d+:\d+: internal compiler error: {KILLED_WORDS}$",
    ),
    rule(
        KILLED,
        "the compiler was killed by signal 9",
        "execute command: Killed",
        r"^(?P<program>\S+): error: unable to execute command: Killed",
    ),
    rule(
        KILLED,
        "killed by signal 9",
        "signal 9|SIGKILL",
        rf"(?:^|[:\s])(?<!if the )(?<!If the )(?<!if your )['\"`]?(?P<program>[\w./+-]+)['\"`]? {_BY_SIGNAL_9}",
        read=read_process,
    ),
    rule(
        KILLED,
        "killed by signal 9",
        ": |Done(137)|[",
        rf"^(?:[\w./@+-]+: (?:\d+: )?)?(?:line|Zeile|ligne) \d+: +\d+ (?:{KILLED_WORDS}(?:: 9)?|"
        rf"Done\(137\)) +(?P<program>\S.*)",
        rf"^\[\d+\][+-]? +(?:\d+ )?{KILLED_WORDS}(?:: 9)? +(?P<victim>\S.*)",
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
        r"\b(?P<program>[\w-]+) process \([\w-]+\) exited unexpectedly \(-9\)",
    ),
    rule(KILLED, "killed by signal 9", "target signal 9", r"^qemu: uncaught target signal 9\b"),
    rule(
        KILLED,
        "killed by signal 9",
        "due to signal 9",
        r"\b(?P<program>builder) for '[^']*' failed due to signal 9\b",
        read=read_process,
    ),
    # Nobody in particular.
    rule(
        HINT,
        "something was killed by signal 9",
        "illed|et\u00f6tet|\u7d42\u4e86|\u6b7b",
        rf"^(?:zsh: )?(?:[Kk]illed|{KILLED_WORDS})(?:: 9)?(?: {{2,}}\S.*)?$|^/\S+: \d+: +Killed$|"
        rf"\bline \d+: +\d+ Killed$",
        r"\b(?:[Ss]ubprocess|[Pp]rocess|[Cc]ommand|[Cc]ompiler|[Ll]inker|[Ww]orker) (?:was |got )?killed\.?$",
        r"^\(Killed\)|\bfailed:? \(Killed\)|\bfailed: Killed(?:: 9)?$|\bkilled by signal \(Killed\)|"
        r"\b[Rr]eceived \"killed\" signal",
    ),
    rule(
        HINT,
        "a command was killed by signal 9",
        "*** |Signal 9",
        rf"^\S*make(?:\[\d+\])?: \*\*\* (?:\[[^\]]*\] ?)?(?:[^ ]* )?(?:{KILLED_WORDS}$|Killed\b|Error 137\b|"
        rf"Error -9\b)",
        r"^\*\*\* (?:\[[^\]]*\] )?(?:Signal 9\b|Error code 137\b)|^scons: \*\*\* \[[^\]]*\] Error (?:-9|137)\b",
    ),
    rule(
        HINT,
        "killed by signal 9",
        "signal|SIGKILL|9/KILL",
        r"\(signal: killed\)|\bsignal: 9, SIGKILL\b|\bfailed (?:due to|with|by|on) signal 9\b|\bSIGKILL\(-9\)|"
        r"\bcode=killed, status=9/KILL\b",
        r"\b(?:signal|code) \"?SIGKILL\"?|\bsignal:? killed\b",
        r"\b(?:[Kk]illed|[Tt]erminated|[Aa]borted|died|exited|interrupted|received|caught)\b[\w\s,:'\"()-]{0,40}"
        r"\b(?:signal:? ?9\b|SIGKILL\b)",
    ),
    rule(
        HINT,
        "ended with status 137, that is signal 9",
        "137|-9",
        r"\breturned '?(?:137|-9)'?(?::| instead of)|\bnon-zero status: (?:137|-9)\b",
        r"\bexit 137 from '(?P<program>[^']*)",
        r"^FAILED: \[code=137\]|\(Exit 137\)|\bExited \(137\)|\bexited (?:with )?137\b|\bexit 137$|"
        r"\b[Nn]on-zero code: 137\b|^npm (?:ERR!|error) (?:code|errno) 137$|\breturn code of .{0,200}\bwas 137\b",
        r"(?<!expected )\b[Ee]xit ?[Cc]ode[\"']?\s*[:= ]\s*[\"']?137\b",
        r"(?<!expected )\b(?:[Ee]xit(?:ed)?|[Rr]eturn(?:ed)?|[Tt]erminated|[Ff]ailed)\b"
        r"(?!.{0,60}\bexpected (?:exit|return|code|status))[\w\s,'\"().:-]{0,60}?"
        rf"\b(?:with |code|status|value)[\w\s:='\"()]{{0,20}}?{_STATUS}",
    ),
    rule(HINT, "a worker process was killed", "terminated abruptly", r"\bin the process pool was terminated abruptly"),
    rule(
        HINT,
        "the build ended too early, most likely for memory",
        "ran out of memory or|erhaps out of memory",
        r"\bsystem ran out of memory or someone called\b|\bSIGKILL! Perhaps out of memory\b",
    ),
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
