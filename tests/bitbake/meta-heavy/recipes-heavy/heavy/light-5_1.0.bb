# SPDX-License-Identifier: MIT
SUMMARY = "A small program"
DEPENDS = "light-2"
require light.inc
