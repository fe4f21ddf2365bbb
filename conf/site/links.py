# SPDX-License-Identifier: MIT
"""Links from the documentation to files beside it, for the site: they lead to the repository.

Runs in: mkdocs, which is told of it in mkdocs.yml.
"""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """A page whose links out of docs/ lead to the repository's files."""
    return re.sub(r"\]\(\.\./", f"]({config['repo_url']}/blob/main/", markdown)
