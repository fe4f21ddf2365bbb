# SPDX-License-Identifier: MIT
"""Whether memory ended a task or a build, from its log alone.

Pure. May import nothing. Within: scan -> verdict, console -> the two tables -> readers -> rule; lines, place.
"""
