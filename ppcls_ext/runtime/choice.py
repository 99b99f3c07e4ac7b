"""Which engine runs an exported model where the caller names none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, HOW_TO_EXPORT
from ppcls_ext.runtime.exported import Exported

# The first of these that is installed, and whose format is in the folder.
PREFERRED = ("onednn", "onnxruntime", "openvino-onnx")
AUTO = "auto"  # stands for an engine's name and means: measure, see `ppcls_ext.runtime.auto`
# Where Paddle's outputs are wanted, as of a teacher or in an evaluation, these stand for an engine's name:
FIRST = "first"  # the first of `PREFERRED` that is installed and gives what Paddle gives
PADDLE = "paddle"  # none: Paddle runs the network itself


@dataclass(frozen=True)
class Candidate:
    """An engine that was tried for a model.

    Attributes:
        engine, model_format: what it is.
        difference: of its outputs from those that the export stores; None where it gave none.
        ms: median milliseconds of a call (of one that was not timed in rounds, its fastest call); None: it never ran.
        rounds: that it was timed in.
        ratio, low, high: how many times as long as the preferred engine it takes, with a 95 % interval; None where it
            was not timed in rounds.
        refused: why it cannot be chosen, in one line; empty where it can.
        note: why it was not timed to the end; empty where it was.
    """

    engine: str
    model_format: str
    difference: float | None = None
    ms: float | None = None
    rounds: int = 0
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    refused: str = ""
    note: str = ""

    def __str__(self) -> str:
        name = f"{self.engine} on {self.model_format}"
        if self.refused:
            return f"{name}: refused, {self.refused}"
        parts = [] if self.ms is None else [f"{self.ms:.2f} ms"]
        if self.ratio is not None and self.rounds:
            parts.append(f"ratio {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}] in {self.rounds} rounds")
        if self.difference is not None:
            parts.append(f"largest difference {self.difference:.1e}")
        return f"{name}: " + ", ".join([*parts, *([self.note] if self.note else [])])


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs a model and why; as text, a line for it and one for each candidate.

    Attributes:
        reason: why this one, in words.
        candidates: all that were tried, the preferred one first; empty where nothing was measured.
        threads: of the CPU that it was chosen for; None where nothing was measured.
        shapes: of each input that it was chosen for.
        remembered: whether it was measured by an earlier process.
    """

    engine: str
    model_format: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    threads: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    remembered: bool = False

    @property
    def summary(self) -> str:
        """The choice in one line."""
        earlier = " (measured earlier)" if self.remembered else ""
        return f"engine {self.engine} on {self.model_format}: {self.reason}{earlier}"

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {candidate}" for candidate in self.candidates)])

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> EngineChoice:
        """What `to_dict` gave and JSON has kept, as one that is remembered.

        Raises:
            ValueError, TypeError or KeyError: it is something else.
        """
        if not isinstance(content, dict):
            raise TypeError("expected keys and values")
        tried = tuple(Candidate(**_known(Candidate, entry)) for entry in content["candidates"])
        shapes = tuple(tuple(shape) for shape in content["shapes"])
        choice = cls(**{**_known(cls, content), "candidates": tried, "shapes": shapes})
        whole = [choice.threads, *(n for shape in shapes for n in shape), *(one.rounds for one in tried)]
        if not tried or not _are_texts(choice.engine, choice.model_format, choice.reason):
            raise ValueError("it is no choice that was measured")
        if not all(type(n) is int for n in whole) or not all(map(_is_sound, tried)):
            raise ValueError("it holds figures that are none")
        return replace(choice, remembered=True)


def _is_sound(tried: Candidate) -> bool:
    """Whether a candidate that was read has texts and numbers where they belong."""
    interval = (tried.ratio, tried.low, tried.high)
    numbers = [number for number in (tried.difference, tried.ms, *interval) if number is not None]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        return False
    together = all(number is None for number in interval) or None not in interval
    return together and _are_texts(tried.engine, tried.model_format, tried.refused, tried.note)


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _known(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: content[f.name] for f in fields(kind)}


def choose_engine(
    exported: Exported, engine: str | None, allow_reduced: bool = False, model_format: str | None = None
) -> EngineChoice:
    """An engine and the model format that it is to run, without measuring.

    Args:
        engine: the caller's choice; None takes the first of `PREFERRED` that can run here.
        allow_reduced: take an engine with reduced precision also where the export has not accepted it.
        model_format: that an engine which is named is to run; default: the first of the folder's that it runs.
    Raises:
        UserError: an engine that is unknown, not installed, without a format in this folder, or not accepted; a format
            that it does not run or that is not there.
    """
    if engine is not None:
        if engine not in ENGINES:
            raise UserError(f"engine '{engine}' is unknown; {nearest(engine, [*ENGINES, AUTO])}")
        kind = engine_class(engine)
        kind.require()
        usable = [f for f in kind.formats if f in exported.formats]
        if not usable:
            how = "--formats all" if kind.precision == FLOAT else HOW_TO_EXPORT[kind.formats[0]]
            raise UserError(
                f"exported model {exported.folder}: engine {engine} runs {' or '.join(kind.formats)}, and the folder "
                f"has {', '.join(exported.formats)}; export again with pplcnet export {how}"
            )
        if not allow_reduced and not exported.accepts(kind):
            raise UserError(
                f"exported model {exported.folder}: engine {engine} computes in {kind.precision}, which this export "
                f"has not accepted; let pplcnet export -o Export.{kind.precision}=true try it, or run it all the same: "
                "infer --allow-reduced, Predictor(..., allow_reduced=True)"
            )
        if model_format is not None and model_format not in usable:
            raise UserError(
                f"exported model {exported.folder}: engine {engine} runs {' or '.join(usable)} of this folder, not "
                f"{model_format!r}"
            )
        return EngineChoice(engine, model_format or usable[0], "it was asked for")
    for name in PREFERRED:
        kind = engine_class(name)
        usable = [f for f in kind.formats if f in exported.formats]
        if usable and kind.installed() and exported.accepts(kind):
            return EngineChoice(name, usable[0], "the first that is installed and has its format in the folder")
    raise no_engine(exported)


def no_engine(exported: Exported) -> UserError:
    """What to raise where no engine for an export is installed."""
    extras = {engine_class(name).extra for name in ENGINES if set(engine_class(name).formats) & set(exported.formats)}
    ways = " or ".join(f"'pplcnet[{extra}]'" for extra in sorted(extras))
    return UserError(f"exported model {exported.folder}: no engine for it is installed; python -m pip install {ways}")
