"""How repairs reach a suite: a module is repaired right after its import, whoever imports it, and imports are quiet."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Imports inside neither print nor warn: ppcls, ppdet and paddleseg print hints and raise Deprecation- and
    SyntaxWarnings on current Python (paddleclas 2.4.2, paddledet 2.6.0, paddleseg 2.8.0). Errors still pass.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


Repair = Callable[[Any], None]  # takes the module that was just imported


def repair_on_import(repairs: Mapping[str, Repair]) -> None:
    """Apply each repair as its module is imported, or now to what was imported before; safe to repeat.

    PaddleClas's modules may be there twice, as `ppcls.x` and as `paddleclas.ppcls.x`: both are repaired.
    """
    if not any(isinstance(finder, RepairingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RepairingFinder(repairs))
    for name, repair in repairs.items():
        for known_as in (name, f"paddleclas.{name}"):
            if known_as in sys.modules:
                repair(sys.modules[known_as])


class RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that have a repair as Python would, and has them repaired once they are loaded."""

    def __init__(self, repairs: Mapping[str, Repair]) -> None:
        self.repairs = repairs
        self._busy: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that has a repair, whose loader applies it; None for any other."""
        if name not in self.repairs or name in self._busy:
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
        if spec is not None and spec.loader is not None:
            spec.loader = _RepairingLoader(spec.loader, self.repairs[name])
        return spec


class _RepairingLoader(importlib.abc.Loader):
    """Runs a module's own loader, then our repair of it."""

    def __init__(self, loader: importlib.abc.Loader, repair: Callable[[Any], None]) -> None:
        self.loader, self.repair = loader, repair

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self.loader.exec_module(module)
        self.repair(module)
