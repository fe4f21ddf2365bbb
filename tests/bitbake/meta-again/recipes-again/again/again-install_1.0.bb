# SPDX-License-Identifier: MIT
# Compiles in do_install, as Rust's own recipe does.
require again.inc

do_compile() {
    echo "${PN} compile ${PARALLEL_MAKE}" >> ${AGAIN_LOG}
}

do_install() {
    echo "${PN} install ${PARALLEL_MAKE} $(ls ${D} | wc -l)" >> ${AGAIN_LOG}
    touch ${D}/first
    ${AGAIN_MAKE} program
    install -m 0755 program ${D}/program
}
