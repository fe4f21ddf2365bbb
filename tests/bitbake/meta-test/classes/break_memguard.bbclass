# SPDX-License-Identifier: MIT
# Plants a fault in memguard's decisions, in the server, as soon as a build starts.

addhandler break_memguard
break_memguard[eventmask] = "bb.event.BuildStarted"
python break_memguard() {
    from memguard.decide import ledger

    def fail(*arguments):
        raise RuntimeError("a planted fault")

    ledger.admit = fail
}
