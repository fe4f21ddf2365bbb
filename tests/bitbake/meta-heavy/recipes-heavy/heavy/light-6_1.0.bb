# SPDX-License-Identifier: MIT
SUMMARY = "A small program"
DEPENDS = "light-3"
require light.inc
