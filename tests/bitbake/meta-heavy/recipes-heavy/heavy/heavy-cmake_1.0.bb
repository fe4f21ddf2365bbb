# SPDX-License-Identifier: MIT
SUMMARY = "Four large translation units, built by CMake and Ninja"
inherit cmake
