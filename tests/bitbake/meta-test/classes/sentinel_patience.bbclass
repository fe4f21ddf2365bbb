# SPDX-License-Identifier: MIT
# Lets memguard give a sentinel up that has shown no sign of life for SENTINEL_HUNG_S seconds, rather than its own time.

addhandler sentinel_patience
sentinel_patience[eventmask] = "bb.event.BuildStarted"
python sentinel_patience() {
    from memguard.server import sentinel_process
    sentinel_process.HUNG_S = float(d.getVar("SENTINEL_HUNG_S"))
}
