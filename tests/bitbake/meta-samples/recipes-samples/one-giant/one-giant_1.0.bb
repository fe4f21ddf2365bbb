# SPDX-License-Identifier: MIT
SUMMARY = "One large translation unit among twelve small ones, built by CMake and Ninja"
inherit cmake
EXTRA_OECMAKE = "-DHEAVY_SOURCES=${HEAVY_SOURCES}"
