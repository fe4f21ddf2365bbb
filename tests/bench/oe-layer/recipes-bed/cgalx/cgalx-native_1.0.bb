# SPDX-License-Identifier: MIT
SUMMARY = "CGAL by Meson"
LICENSE = "CLOSED"
SRC_URI = "file://meson.build file://triangulate.hpp file://main.cpp \
    file://part1.cpp file://part2.cpp file://part3.cpp file://part4.cpp"
S = "${UNPACKDIR}"
inherit meson native
