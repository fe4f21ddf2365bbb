# SPDX-License-Identifier: MIT
"""Whose kernel says something: that of the build, or that of a device under test.

Runs in: task children and the `memguard` command; pure, patterns.
Does not cover: what the kernel says (memory_rules.py); what follows from whose it is (verdict.py).
"""

from __future__ import annotations

import re

# The log of a device under test: what its kernel says of memory is not about the build.
DEVICE = re.compile(
    r"\(oe-user@oe-host\)|\blogin: ?$|^root@[\w-]+:[~/]\S*# |/dev/tty(?:S|AMA|mxc|O|USB|PS)\d|"
    r"^U-Boot (?:SPL )?\d{4}\.|^Starting kernel \.\.\.|\bBooting Linux on (?:physical CPU|hart)\b|"
    r"\b(?:do_testimage|TESTIMAGE)\b|^RESULTS - |"
    r"\bMachine model: |\bHardware name: .*(?:\((?:DT|Flattened)|Generic \w+ \(|BeagleB|Raspberry|i\.MX)|"
    r"\bCPU: \d+ .*\bComm: .*-(?:yocto|poky|openbmc|fslc|ti|imx|xilinx|tegra|lmp)\b"
)
# Lines of a kernel, whosever it is.
KERNEL = re.compile(
    r"\boom|\bOut of memory: [Kk]ill|\bKilled process \d+|\bMemory cgroup|\boom-kill|\bTask in \S+ killed"
)
