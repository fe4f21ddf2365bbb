# SPDX-License-Identifier: MIT
"""What to do: which task starts, what running ones may take, when one runs again.

Pure. May import the words, predict and diagnose.
"""
