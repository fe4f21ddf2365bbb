# SPDX-License-Identifier: MIT
"""The ways in which memory ends, and how each is said in logs.

Runs in: task children and the `memguard` command; pure, a table.
Covers: the order of the tables: the first rule that knows a line says what it means.
Does not cover: other causes (other_rules.py); what a rule is (rule.py); what a match means in detail (readers.py).
To add one: a row in the table of whoever says it, and its wording in tests/fixtures/failure-logs.
"""

from __future__ import annotations

from memguard.diagnose.container_rules import CONTAINER_RULES
from memguard.diagnose.kernel_rules import KERNEL_RULES
from memguard.diagnose.kill_rules import KILL_RULES
from memguard.diagnose.runtime_rules import RUNTIME_RULES
from memguard.diagnose.tool_rules import TOOL_RULES

# A rule is tried on lines that hold one of its words, and these on lines that hold a stem (stems.py).
MEMORY_RULES = (*KERNEL_RULES, *CONTAINER_RULES, *TOOL_RULES, *RUNTIME_RULES, *KILL_RULES)
