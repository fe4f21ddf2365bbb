# SPDX-License-Identifier: MIT
SUMMARY = "nlohmann-json by CMake and make"
LICENSE = "CLOSED"
SRC_URI = "file://CMakeLists.txt file://convert.hpp file://main.cpp file://part1.cpp file://part2.cpp file://part3.cpp"
S = "${UNPACKDIR}"
OECMAKE_GENERATOR = "Unix Makefiles"
inherit cmake native
