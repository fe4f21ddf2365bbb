# SPDX-License-Identifier: MIT
from typing import Any, Callable

exec_func: Callable[..., Any]

class TaskBase:
    task: str
    logfile: str
    _fn: str

class TaskStarted(TaskBase): ...
class TaskSucceeded(TaskBase): ...
