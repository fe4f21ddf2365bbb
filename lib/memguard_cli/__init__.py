# SPDX-License-Identifier: MIT
"""The `memguard` command, which looks at builds from outside BitBake: rooms of modules, and main, where it begins.

May import the layer's rooms that need no bb, and well-kept packages; click only in main and commands.
"""
