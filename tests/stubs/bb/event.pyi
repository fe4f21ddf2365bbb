# SPDX-License-Identifier: MIT
from typing import Any

class ConfigParsed: ...

worker_fire: Any
