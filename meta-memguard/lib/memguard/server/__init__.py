# SPDX-License-Identifier: MIT
"""What the BitBake server does for one build.

May import the words, sense, predict, decide, channels and record.
"""
