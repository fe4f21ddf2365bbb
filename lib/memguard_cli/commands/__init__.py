# SPDX-License-Identifier: MIT
"""The subcommands, a file each: options in, rooms called, exit status out. Only here and in main is click.

May import every room; only main imports it.
"""
