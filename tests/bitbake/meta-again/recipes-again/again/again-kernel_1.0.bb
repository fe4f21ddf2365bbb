# SPDX-License-Identifier: MIT
# Three sources of which the compiler takes some 420 MB each: one long list.
require again.inc

do_configure() {
    python3 -c 'print("static const int a[] = {" + "1," * 3000000 + "}; int size(void) { return sizeof a; }")' > list.c
}

do_compile() {
    echo "${PN} compile ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
    ${AGAIN_MAKE} large
}

do_install() {
    echo "${PN} install ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
}
