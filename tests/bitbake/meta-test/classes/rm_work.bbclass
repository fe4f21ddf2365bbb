# SPDX-License-Identifier: MIT
# Like OpenEmbedded-Core's class of this name: work directories go as soon as a recipe is built, and the scheduler
# is one that finishes recipes before it starts new ones, unless somebody has chosen another.

BB_SCHEDULER ?= "completion"

addtask rm_work after do_install before do_build
do_rm_work[dirs] = "${WORKDIR}"
python do_rm_work() {
    if d.getVar("PN") in (d.getVar("RM_WORK_EXCLUDE") or "").split():
        return
    workdir = d.getVar("WORKDIR")
    for name in os.listdir(workdir):
        # The log of this very task lies in temp.
        if name != "temp":
            bb.utils.remove(os.path.join(workdir, name), recurse=True)
}
