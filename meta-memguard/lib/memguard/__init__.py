# SPDX-License-Identifier: MIT
"""meta-memguard: a Yocto build that fits the memory it has.

Runs in: the BitBake server and its task children; standard library only.
This file stays empty of code: the layer names it in `addpylib`, so whatever fails here
stops every BitBake command of everyone who has the layer.
"""
