# SPDX-License-Identifier: MIT
"""What to think of a container, a build, a failure or a task, and what to do about it; words for no screen.

May import builds.
"""
