# SPDX-License-Identifier: MIT
# Goes on whatever became of its compilers.
require again.inc

do_compile() {
    echo "${PN} compile ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
    ${AGAIN_MAKE} program || true
}

do_install() {
    :
}
