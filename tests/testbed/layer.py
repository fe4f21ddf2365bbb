# SPDX-License-Identifier: MIT
"""Write a layer of recipes that a test or a bench makes up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write(path: Path, recipes: Mapping[str, str]) -> Path:
    """A layer named after its directory, meta-NAME, with the text of each recipe of version 1.0 by its name."""
    name = path.name.rpartition("-")[2]
    (path / "conf").mkdir(parents=True)
    (path / "conf" / "layer.conf").write_text(
        f'BBFILES += "${{LAYERDIR}}/recipes/*.bb"\nBBFILE_COLLECTIONS += "{name}"\n'
        f'BBFILE_PATTERN_{name} = "^${{LAYERDIR}}/"\n'
        f'LAYERSERIES_COMPAT_{name} = "scarthgap whinlatter wrynose blacksail"\n',
        encoding="utf-8",
    )
    (path / "recipes").mkdir()
    for recipe, text in recipes.items():
        (path / "recipes" / f"{recipe}_1.0.bb").write_text(text, encoding="utf-8")
    return path
