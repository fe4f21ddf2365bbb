# SPDX-License-Identifier: MIT
"""The database of what tasks took in earlier builds.

May import the words, sense and channels.
"""
