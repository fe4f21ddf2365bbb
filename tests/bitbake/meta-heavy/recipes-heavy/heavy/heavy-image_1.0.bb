# SPDX-License-Identifier: MIT
SUMMARY = "Everything: what the demo builds"
DEPENDS = "heavy-make heavy-cmake heavy-serial light-1 light-2 light-3 light-4 light-5 light-6"
