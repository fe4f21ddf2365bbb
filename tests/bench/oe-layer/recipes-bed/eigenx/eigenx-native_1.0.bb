# SPDX-License-Identifier: MIT
SUMMARY = "Eigen by CMake and Ninja"
LICENSE = "CLOSED"
SRC_URI = "file://CMakeLists.txt file://decompose.hpp file://main.cpp file://part1.cpp file://part2.cpp file://part3.cpp"
S = "${UNPACKDIR}"
inherit cmake native
