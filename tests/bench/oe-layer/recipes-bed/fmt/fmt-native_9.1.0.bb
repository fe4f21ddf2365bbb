# SPDX-License-Identifier: MIT
SUMMARY = "libfmt by CMake and make"
LICENSE = "CLOSED"
SRC_URI = "file://${DL_DIR}/fmtlib_9.1.0+ds1.orig.tar.gz"
S = "${UNPACKDIR}/fmtlib-9.1.0+ds1"
OECMAKE_GENERATOR = "Unix Makefiles"
inherit cmake native
EXTRA_OECMAKE = "-DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DFMT_TEST=OFF -DFMT_DOC=OFF"
