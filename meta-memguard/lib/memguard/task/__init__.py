# SPDX-License-Identifier: MIT
"""What happens inside a task's own process.

May import the words, sense, decide, diagnose, act and channels.
"""
