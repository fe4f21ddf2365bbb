# SPDX-License-Identifier: MIT
# Build a Makefile of ${S} in ${B} with as many jobs as PARALLEL_MAKE says.

EXTRA_OEMAKE ?= ""

make_do_compile() {
    make ${PARALLEL_MAKE} -f ${S}/Makefile VPATH=${S} ${EXTRA_OEMAKE}
}

EXPORT_FUNCTIONS do_compile
