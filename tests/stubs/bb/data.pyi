# SPDX-License-Identifier: MIT
from bb.data_smart import DataSmart

def inherits_class(name: str, d: DataSmart) -> bool: ...
