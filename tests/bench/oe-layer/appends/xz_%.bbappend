# SPDX-License-Identifier: MIT
# The host has xz. What unpacks needs the recipe, and takes it as it comes.
SRC_URI:class-native = ""
LIC_FILES_CHKSUM:class-native = ""
LICENSE:class-native = "CLOSED"
python () {
    if bb.data.inherits_class("native", d):
        for task in ("do_patch", "do_configure", "do_compile", "do_install"):
            d.setVarFlag(task, "noexec", "1")
}
