# SPDX-License-Identifier: MIT
"""docs/variables.md, made from the defaults and the [doc] flags of memguard.bbclass.

Run it as scripts/variables. The document holds nothing that the class does not say, but for its head.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CLASS = REPOSITORY / "meta-memguard" / "classes-global" / "memguard.bbclass"
DOCUMENT = REPOSITORY / "docs" / "variables.md"

HEAD = """\
# Variables

Made by `scripts/variables` from `meta-memguard/classes-global/memguard.bbclass`; change it there.

All of them are set in local.conf, in a distribution's configuration, or in the `local_conf_header` of a kas file, never
in a recipe. None is part of a task's signature, and changing one needs no new parse. A value that cannot be used stops
BitBake at parse with one sentence that names it and shows a good one.

A variable of the environment counts where no configuration sets it, if BitBake lets it in: by
`BB_ENV_PASSTHROUGH_ADDITIONS`, or by the `env` section of a kas file, as
[conf/kas/memguard.yml](../conf/kas/memguard.yml) has it.

Sizes are bytes, or have a suffix: `512M`, `1.5G` (powers of 1024), `2GB` (of 1000). Shares have a percent sign: `10%`.
"""


@dataclass(frozen=True)
class Variable:
    """One variable; default None where it has none."""

    name: str
    default: str | None
    doc: str


def read(text: str) -> list[Variable]:
    """The variables of a class that have a [doc] flag, in its order."""
    defaults = dict(re.findall(r'^(MEMGUARD_[A-Z_]+) \?= "(.*)"$', text, re.MULTILINE))
    documented = re.findall(r'^(MEMGUARD_[A-Z_]+)\[doc\] = "(.*)"$', text, re.MULTILINE)
    return [Variable(name, defaults.get(name), doc) for name, doc in documented]


def render(variables: list[Variable]) -> str:
    """The document."""
    parts = [HEAD]
    for variable in variables:
        default = f"`{variable.default}`" if variable.default else "empty" if variable.default == "" else "none"
        name = f"{variable.name}:pn-NAME" if variable.default is None else variable.name
        parts.append(f"## {name}\n\nDefault: {default}.\n\n{_escaped(variable.doc)}\n")
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([*<>|])", r"\\\1", text)


def main(arguments: list[str]) -> int:
    """Write the document; with --check only compare it."""
    wanted = render(read(CLASS.read_text(encoding="utf-8")))
    if arguments == ["--check"]:
        if DOCUMENT.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{DOCUMENT} is not what the class says: run scripts/variables", file=sys.stderr)
        return 1
    if arguments:
        print("scripts/variables takes --check or nothing", file=sys.stderr)
        return 2
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
