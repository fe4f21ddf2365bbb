# SPDX-License-Identifier: MIT
"""How it is said that somebody or something stopped a build on purpose: people, time limits, machines that go away.

Runs in: task children and the `memguard` command; pure, a table.
Covers: what explains a signal 9, or a console that ends in mid-course, without memory.
"""

from __future__ import annotations

from memguard.diagnose.readers import read_shutdown
from memguard.diagnose.rule import CAUSE, DOUBT, STOPPED, rule

STOP_RULES = (
    rule(
        DOUBT,
        "",
        "shutdown signal",
        r"\brunner has received a shutdown signal",
        read=read_shutdown,
    ),
    rule(
        STOPPED,
        "the machine was shut down",
        "node shutdown|hutting down|going down|power off|reboot|halt|powering down|User Manager|shutdown|terminated",
        r"\bimminent node shutdown\b|\bShutdown manager\b.*\bnode\b|\breason: \"?NodeShutdown\b|"
        r"\bReason: +NodeShutdown\b",
        r"\b(?:[Aa]gent|[Nn]ode|[Ss]ystem|[Mm]achine|[Hh]ost) is (?:shutting down|going down|rebooting|"
        r"powering (?:off|down))\b",
        r"\bsystem (?:will|is going to) (?:power off|reboot|be halted|halt)\b|\bgoing down for (?:reboot|"
        r"poweroff|halt|system)",
        r"\bStopping User Manager for UID\b|\b(?:[Aa]gent|[Ii]nstance|[Nn]ode|[Mm]achine) (?:was|"
        r"has been) terminated\b",
    ),
    rule(
        STOPPED,
        "the machine was taken away (spot or preemptible)",
        "pot|reempt",
        r"\b[Ss]pot (?:[Ii]nstance |VM |node )?(?:interruption|termination|preemption|reclaim)|"
        r"\bEC2 [Ss]pot\b.*interrupt",
        r"\b(?:[Ii]nstance|[Nn]ode|VM|[Mm]achine|[Jj]ob|[Pp]od) (?:was|is being|has been|got) preempted\b",
        r"\bPreempted by\b|\bPreempted\s{2,}|DUE TO PREEMPTION\b|\bTERM_PREEMPT\b|\b[Pp]reemption notice\b",
    ),
    rule(
        STOPPED,
        "somebody killed it",
        'kill |signal=|"kill"|SIGKILL|TERM_|deleted at request|scancel',
        r"^(?:\+{1,4} )?(?:sudo )?(?:p?kill|killall) +(?:-(?:9|KILL|SIGKILL|s ?9)|-s (?:KILL|SIGKILL)|-TERM|-15)\b",
        r"\bcontainer kill [0-9a-f]{6,}.*\bsignal=(?:9|15|SIGKILL|SIGTERM|KILL|TERM)\b",
        r"\"(?:[Ss]tatus|[Aa]ction)\": ?\"kill\"|\b[Kk]illing process \d+ \([^)]*\) with signal SIG(?:KILL|"
        r"TERM|ABRT)\b",
        r"\bTERM_(?:OWNER|ADMIN|FORCE_OWNER|FORCE_ADMIN)\b|\b[Jj]ob deleted at request of\b",
        r"\bsent SIGKILL to .{0,40}\bby (?:user|uid)\b",
    ),
    rule(
        STOPPED,
        "a health check failed",
        "probe",
        r"\bfailed (?:liveness|startup|readiness) probe, will be (?:restarted|killed)\b",
    ),
    rule(
        STOPPED,
        "the build was interrupted",
        "nterrupt|^C|SIGINT",
        r"Keyboard ?Interrupt|^\^C|^\S*make(?:\[\d+\])?: \*\*\* .*\bInterrupt$|\binterrupted by user\b|"
        r"\bsignal: interrupt\b|\bsignal \"?SIGINT\"?(?:$|\W)",
    ),
    rule(
        STOPPED,
        "the build was stopped by a time limit",
        "imed out|imed-out|execution t|imeout|IMEOUT|DeadlineExceeded|killing it after|o output|time limit|"
        "TIME LIMIT|"
        "time limit|walltime|wallclock|TERM_RUNLIMIT|TERM_CPULIMIT|TIMED_OUT|maximum|hung build|eadline|run time",
        r"\b[Bb]uild (?:has )?timed out\b|\bexceeded the max(?:imum)? (?:execution |run ?|build )?time|"
        r"\bexecution took longer than \S+ (?:seconds|minutes|hours)|\bBUILD_TIMED_OUT\b",
        r"\btimeout: sending signal \w+ to command|\btimed out after \d+|\b[Tt]imed out waiting for\b|"
        r"\b[Jj]ob (?:has )?timed out\b",
        r"\bTimeout has been exceeded|\bDeadlineExceeded\b|\bkilling it after \d+|\b[Ww]atchdog timeout\b",
        r"\bNo output has been received in the last|\b[Nn]o output for \d+|\bToo long with no output\b|"
        r"\bState '\S+' timed out\. Killing",
        r"\b[Ee]xceeded (?:the )?(?:build |job )?time ?(?:limit|out)\b|\bwithin the (?:specified )?time limit\b|"
        r"\bran longer than the maximum time\b|\bexceeded the maximum time limit\b",
        r"\b(?:DUE TO TIME LIMIT|walltime \d+ exceeded limit|exceeded wallclock limit|TERM_RUNLIMIT|TERM_CPULIMIT)\b",
        r"\bruntime time limit\b|\bstopped by hung build killer\b|\bcontext deadline exceeded\b|\b(?:due to|"
        r"because of) (?:a |the )?(?:configured )?time-?out\b",
        r"^TIMEOUT$|\bactive on the node longer than the specified deadline\b|\bexceeded the run ?time limit\b",
    ),
    rule(
        STOPPED,
        "the build was cancelled",
        "ancel|ANCEL|borted|was stopped|obsolete|uperseded",
        r"\b[Tt]he [Oo]peration (?:was|will be) cancell?ed\b|\bJob failed: cancell?ed|\b[Aa]borted by \S",
        r"^(?:Build|Job|Pipeline|Workflow|Run|Step) (?:was |has been |is )?(?:aborted|cancell?ed|stopped)\b",
        r"\b[Cc]ancell?ing (?:since|because) |\b[Cc]ancell?ed (?:since|by|because)\b|\bcancell?ed externally\b",
        r"^[Cc]ancell?ing (?:the )?(?:job|build|run|workflow|pipeline|step)\b|\bsuperseded by (?:a |"
        r"another )?newer\b",
        r"\b[Cc]ancell?ing nested steps\b|\b[Rr]eceived cancell?ation signal\b|\*\*\* .{0,80}\bCANCELLED AT\b",
        r"\b[Bb]uild (?:was|has been) (?:cancell?ed|stopped|aborted)\b|^Finished: ABORTED$",
    ),
    rule(
        STOPPED,
        "the build was told to end (SIGTERM)",
        "Terminated|143|SIGTERM|signal 15",
        r"^\S*make(?:\[\d+\])?: \*\*\* .*\bTerminated$|^Terminated$|\bexit(?:ed)? (?:with )?(?:code|status) '?143\b",
        r"\bsignal \"?SIGTERM\"?(?:$|\W)|\b(?:failed|terminated) (?:due to|by|with) signal 15\b|"
        r"\bsignal: terminated\b",
    ),
    rule(
        STOPPED,
        "the connection to the machine was lost",
        "roken pipe|closed by remote|Hangup|SIGHUP|not responding",
        r"\b(?:client_loop: send disconnect|packet_write_\w+): .*|^Write failed: Broken pipe$",
        r"^Connection to \S+(?: port \d+)? closed by remote host|^(?:\[\d+\][+-]? +)?Hangup\b|"
        r"\bsignal \"?SIGHUP\"?(?:$|\W)",
        r"^\S*make(?:\[\d+\])?: \*\*\* .*\bHangup$|^Timeout, server \S+ not responding",
    ),
    rule(
        CAUSE,
        "the image could not be pulled or started",
        "from daemon|toomanyrequests|ErrImagePull|ImagePullBackOff",
        r"\bError response from daemon: (?!.*\b(?:exited|137)\b)|\btoomanyrequests\b|\bErrImagePull\b|"
        r"\bImagePullBackOff\b",
    ),
)
