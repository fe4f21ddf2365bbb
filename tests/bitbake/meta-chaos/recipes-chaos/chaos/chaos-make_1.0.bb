# SPDX-License-Identifier: MIT
require chaos.inc

do_compile() {
    make ${PARALLEL_MAKE} -f ${S}/Makefile S=${S} OBJECTS="${CHAOS_OBJECTS}"
}
