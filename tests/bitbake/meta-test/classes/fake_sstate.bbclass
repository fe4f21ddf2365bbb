# SPDX-License-Identifier: MIT
# Setscene tasks for do_install, as sstate gives them: those recipes that FAKE_SSTATE names are covered.

# Each takes FAKE_SSTATE_MIB while it lasts.

FAKE_SSTATE ?= ""
FAKE_SSTATE_MIB ?= "0"

BB_HASHCHECK_FUNCTION = "fake_sstate_valid"
def fake_sstate_valid(sq_data, d, siginfo=False, currentcount=0, summary=False, **kwargs):
    """Return the setscene tasks whose result is taken for available."""
    covered = d.getVar("FAKE_SSTATE").split()
    return {tid for tid in sq_data["hash"] if os.path.basename(tid).partition("_")[0] in covered}

BB_SETSCENE_DEPVALID = "fake_sstate_depvalid"
def fake_sstate_depvalid(task, taskdependees, notneeded, d, log=None):
    """Say that every result is needed by whatever depends on it."""
    return False

addtask install_setscene
python do_install_setscene() {
    import time
    held = b"m" * (int(d.getVar("FAKE_SSTATE_MIB")) << 20)
    time.sleep(int(d.getVar("TINY_SECONDS") or "0"))
    with open(d.getVar("TINY_LOG"), "a") as log:
        log.write(d.expand("${PN} setscene\n"))
}
