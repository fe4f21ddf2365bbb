# SPDX-License-Identifier: MIT
SUMMARY = "googletest with its samples, by CMake and Ninja"
LICENSE = "CLOSED"
SRC_URI = "file://${DL_DIR}/googletest_1.12.1.orig.tar.gz"
S = "${UNPACKDIR}/googletest-release-1.12.1"
inherit cmake native
EXTRA_OECMAKE = "-DCMAKE_POLICY_VERSION_MINIMUM=3.5 -Dgtest_build_samples=ON -Dgmock_build_tests=${OE_BED_GMOCK}"
