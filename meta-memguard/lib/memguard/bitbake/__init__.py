# SPDX-License-Identifier: MIT
"""BitBake's side: event handlers, schedulers, and what runs inside a task.

The only room that imports `bb`. May import everything; nobody imports it.
"""
