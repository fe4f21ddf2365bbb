# SPDX-License-Identifier: MIT
"""The subcommands, a file each. Only here and in main is click."""
