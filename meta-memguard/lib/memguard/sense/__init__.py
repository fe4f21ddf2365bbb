# SPDX-License-Identifier: MIT
"""What there is: the container's memory and CPUs, processes and what they hold, versions of tools.

May import the words (model, units, settings, typed_json).
"""
