# SPDX-License-Identifier: MIT
require tiny.inc

DEPENDS = "tiny-05 tiny-06"
