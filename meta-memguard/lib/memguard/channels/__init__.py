# SPDX-License-Identifier: MIT
"""Files and pipes by which processes talk, all below MEMGUARD_DIR.

May import the words.
"""
