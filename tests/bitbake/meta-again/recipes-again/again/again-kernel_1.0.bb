# SPDX-License-Identifier: MIT
# Three sources of which the compiler takes some 420 MB each: one long list. Nothing is compiled before there is a file
# `go` in the build directory.
require again.inc

do_configure() {
    python3 -c 'print("static const int a[] = {" + "1," * 3000000 + "}; int size(void) { return sizeof a; }")' > list.c
}

do_compile() {
    echo "${PN} compile ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
    timeout 120 sh -c 'until test -e ${TOPDIR}/go; do sleep 0.1; done'
    ${AGAIN_MAKE} large
}

do_install() {
    echo "${PN} install ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
}
