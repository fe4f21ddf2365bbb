# SPDX-License-Identifier: MIT
"""The process that watches running tasks and acts on them.

May import the words and every room from sense to record, never server or task: they talk through channels.
"""
