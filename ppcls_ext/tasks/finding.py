"""Finding a task by the name that a config gives it: each is announced by an entry point."""

from __future__ import annotations

from importlib.metadata import entry_points

from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.tasks.task import Task

ENTRY_POINTS = "pplcnet.tasks"


def load_task(name: str) -> type[Task]:
    """The class of the task that a config names in `Global.task`.

    Raises:
        UserError: no installed package announces it.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise UserError(f"Global.task: no task '{name}'; {nearest(name, found)}")
    task = found[name].load()
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise TypeError(f"entry point {ENTRY_POINTS}:{name} gives {task!r}, not a Task")
    return task


def make_task(config: Config) -> Task:
    """The task of a config. Raises UserError for a wrong config."""
    return load_task(config.global_section.task)(config)
