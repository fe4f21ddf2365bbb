# SPDX-License-Identifier: MIT
"""What is done: signals, token pools, job variables, commands.

May import the words and sense.
"""
