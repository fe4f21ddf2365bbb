# SPDX-License-Identifier: MIT
"""What one build did with its memory, as a page, as text, or for machines.

May import builds, advice and screens.
"""
