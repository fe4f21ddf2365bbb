# SPDX-License-Identifier: MIT
"""What is kept: events, readings, metrics, and the history.

May import the words, sense and channels.
"""
