"""Names that YAML files may use. A name belongs to whoever took it first."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from ppcls_ext.core.errors import UserError, nearest

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K")


class Registry(Mapping[str, Callable[..., Any]]):
    """A read-only mapping from names to factories, filled by `register`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., Any]] = {}

    def register(self, name: str, factory: F) -> F:
        """Take `name`; a name already taken by another factory raises KeyError, which names the owner."""
        owner = self._factories.get(name)
        if owner is not None and owner is not factory:
            where = f"{owner.__module__}.{getattr(owner, '__qualname__', owner)}"
            raise KeyError(f"{self.kind} '{name}' is already registered by {where}")
        self._factories[name] = factory
        return factory

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._factories[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    def __len__(self) -> int:
        return len(self._factories)


def load_announced(group: str, name: str, kind: type[K], missing: str) -> type[K]:
    """The class that an installed package announces under a name of an entry-point group.

    Args:
        kind: what the class must be of.
        missing: how the error begins where nothing is announced under the name.
    Raises:
        UserError: no installed package announces it. TypeError: it is something else.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise UserError(f"{missing}; {nearest(name, found)}")
    loaded = found[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise TypeError(f"entry point {group}:{name} gives {loaded!r}, not a class of {kind.__name__}")
    return loaded


def accepted_keys(factory: Callable[..., Any]) -> set[str]:
    """Names of the keyword arguments that `factory` declares.

    `**kwargs` declares nothing by itself; in a class it stands for what the next constructor of its bases takes.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not isinstance(factory, type):
        return {p.name for p in inspect.signature(factory).parameters.values() if p.kind in kinds}
    if "__init__" not in {name for base in factory.__mro__[:-1] for name in vars(base)}:
        return {p.name for p in inspect.signature(factory).parameters.values() if p.kind in kinds}
    known: set[str] = set()
    for base in factory.__mro__[:-1]:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            known |= {p.name for p in parameters if p.kind in kinds}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return known


def call_checked(
    factory: Callable[..., Any], arguments: Mapping[str, Any], where: str, given: Mapping[str, Any] | None = None
) -> Any:
    """Call `factory` with the `arguments` a config holds and what the program adds (`given`).

    Raises:
        UserError: a key that the factory does not declare, a required one that is missing, or a value
            that the factory refuses; `where` (a path such as `Optimizer.lr`) says which part of the config.
    """
    given = dict(given or {})
    known = accepted_keys(factory)
    for key in arguments:
        if key not in known or key in given:
            raise UserError(f"{where}.{key}: unknown key; {nearest(key, known - set(given))}")
    kwargs = {**arguments, **{k: v for k, v in given.items() if k in known}}
    required = [
        p.name
        for p in inspect.signature(factory).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [name for name in required if name not in kwargs]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing")
    try:
        return factory(**kwargs)
    except KeyError as error:  # a name that it looks up
        raise UserError(f"{where}: {error} is none of the values that it knows") from error
    except (TypeError, ValueError, AssertionError, Warning) as error:  # PaddleClas raises one of what is deprecated
        raise UserError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error
    except Exception as error:
        if type(error) is not Exception:  # a plain one is how PaddleClas's mixing of batches refuses a value
            raise
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
