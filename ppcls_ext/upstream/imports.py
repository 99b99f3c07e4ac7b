"""How repairs reach a suite: a module is repaired right after its import, whoever imports it, and imports are quiet."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Imports inside neither print nor warn: ppcls, ppdet and paddleseg print hints and raise Deprecation- and
    SyntaxWarnings on current Python (paddleclas 2.4.2, paddledet 2.6.0, paddleseg 2.8.0). Errors still pass.
    Can go when none of the three does so any more.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


Repair = Callable[[Any], None]  # takes the module that was just imported
Around = Callable[[], contextlib.AbstractContextManager[None]]  # is entered for the time of the import

_DONE: weakref.WeakKeyDictionary[types.ModuleType, set[Repair]] = weakref.WeakKeyDictionary()  # repairs of a module


def repair_on_import(
    repairs: Mapping[str, Repair],
    later: Mapping[str, Sequence[str]] | None = None,
    around: Mapping[str, Around] | None = None,
) -> None:
    """Apply each repair as its module is imported, or now to what was imported before; safe to repeat.

    Args:
        repairs: by the name of the module.
        later: by the name of a module, those modules that it imports, and that are to be loaded once they are used.
        around: by the name of a module, what it is imported within; nothing is done of one that is there already.

    PaddleClas's modules may be there twice, as `ppcls.x` and as `paddleclas.ppcls.x`: both are repaired.
    """
    finder = next((one for one in sys.meta_path if isinstance(one, RepairingFinder)), None)
    if finder is None:
        sys.meta_path.insert(0, RepairingFinder(repairs, later or {}, around or {}))
    else:
        finder.add(repairs, later or {}, around or {})
    for name, repair in repairs.items():
        for known_as in (name, f"paddleclas.{name}"):
            module = sys.modules.get(known_as)
            # A second time, a repair that wraps a function would wrap its own wrapper.
            if module is not None and repair not in _DONE.setdefault(module, set()):
                repair(module)
                _DONE[module].add(repair)


class RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that have a repair as Python would, and has them repaired once they are loaded.

    Args:
        repairs, later, around: see `repair_on_import`.
    """

    def __init__(
        self, repairs: Mapping[str, Repair], later: Mapping[str, Sequence[str]], around: Mapping[str, Around]
    ) -> None:
        self.repairs, self.later, self.around = dict(repairs), dict(later), dict(around)
        self._busy: set[str] = set()

    def add(
        self, repairs: Mapping[str, Repair], later: Mapping[str, Sequence[str]], around: Mapping[str, Around]
    ) -> None:
        """Find these modules as well."""
        self.repairs.update(repairs)
        self.later.update(later)
        self.around.update(around)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that has a repair, whose loader applies it; None for any other."""
        if not any(name in known for known in (self.repairs, self.later, self.around)) or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = (
                importlib.util.find_spec(name) if path is None else importlib.machinery.PathFinder.find_spec(name, path)
            )
        except ModuleNotFoundError:
            return None
        finally:
            self._busy.discard(name)
        # The spec of a module that is loaded again has our loader already.
        if spec is not None and spec.loader is not None and not isinstance(spec.loader, _RepairingLoader):
            around = self.around.get(name, contextlib.nullcontext)
            spec.loader = _RepairingLoader(spec.loader, self.repairs.get(name), self.later.get(name, ()), around)
        return spec


class _RepairingLoader(importlib.abc.Loader):
    """Runs a module's own loader, with stand-ins for what it imports and need not load yet, then our repair of it."""

    def __init__(
        self, loader: importlib.abc.Loader, repair: Repair | None, later: Sequence[str], around: Around
    ) -> None:
        self.loader, self.repair, self.later, self.around = loader, repair, later, around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with _stand_ins(self.later), self.around():
            self.loader.exec_module(module)
        if self.repair is not None:
            self.repair(module)
            _DONE[module] = {self.repair}  # what was done before a reload is gone


@contextlib.contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """What is imported inside from modules of these names, unless they are loaded, is loaded once it is used."""
    placed = {name: _StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, stand_in in placed.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _StandIn(types.ModuleType):
    """A module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(self.__name__, name)


class _Later:
    """Something of a module that is loaded once this is called or asked for anything."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(self._module), self._name)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python asks of a copy before it has attributes, or to inspect an object
            raise AttributeError(name)
        return getattr(getattr(importlib.import_module(self._module), self._name), name)
