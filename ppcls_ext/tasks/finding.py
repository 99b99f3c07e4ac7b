"""Finding a task by the name that a config gives it: each is announced by an entry point."""

from __future__ import annotations

from ppcls_ext.core.config import Config
from ppcls_ext.core.registry import load_announced
from ppcls_ext.tasks.task import Task

ENTRY_POINTS = "pplcnet.tasks"


def load_task(name: str) -> type[Task]:
    """The class of the task that a config names in `Global.task`.

    Raises:
        UserError: no installed package announces it.
    """
    return load_announced(ENTRY_POINTS, name, Task, f"Global.task: no task '{name}'")  # type: ignore[type-abstract]


def make_task(config: Config) -> Task:
    """The task of a config. Raises UserError for a wrong config."""
    return load_task(config.global_section.task)(config)
