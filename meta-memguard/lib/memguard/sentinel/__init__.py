# SPDX-License-Identifier: MIT
"""The process that watches running tasks and acts on them.

May import the words, sense, predict, decide, act, channels and record, never server or task: they talk through
channels.
"""
