# SPDX-License-Identifier: MIT
SUMMARY = "A small program"
DEPENDS = "light-1"
require light.inc
