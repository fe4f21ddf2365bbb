# SPDX-License-Identifier: MIT
from typing import Any

class Popen:
    defaults: dict[str, Any]
