# SPDX-License-Identifier: MIT
require chaos.inc

do_install() {
    make ${PARALLEL_MAKE} -f ${S}/Makefile S=${S} OBJECTS="${CHAOS_OBJECTS}"
    cp ${CHAOS_OBJECTS} ${D}
}
