# SPDX-License-Identifier: MIT
# Build a CMake project of ${S} in ${B} with Ninja, with as many jobs as PARALLEL_MAKE says.

OECMAKE_GENERATOR ?= "Ninja"
EXTRA_OECMAKE ?= ""

cmake_do_configure() {
    cmake -G "${OECMAKE_GENERATOR}" -S ${S} -B ${B} ${EXTRA_OECMAKE}
}

cmake_do_compile() {
    cmake --build ${B} -- ${PARALLEL_MAKE}
}

EXPORT_FUNCTIONS do_configure do_compile
