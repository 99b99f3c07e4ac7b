"""What a request may set for its own results: the options that the model's task has, such as `threshold`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import accepted_keys
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.serve.limits import Refusal

KEPT = 32  # inferences for the values that were asked for last
LONGEST = 30  # characters of a number


class Options:
    """The options of a model that a request may set.

    Args:
        defaults: the value of each where a request sets none.
        build: makes the model's inference with other values; raises UserError for those that are none.
    """

    def __init__(self, defaults: Mapping[str, float], build: Callable[..., Inference]) -> None:
        self.defaults = dict(defaults)
        self._build = functools.lru_cache(KEPT, typed=True)(build)

    @classmethod
    def of(cls, predictor: Predictor) -> Options:
        """Those of a Predictor."""
        names = sorted(accepted_keys(type(predictor.inference)) - {"recipe"})
        return cls({name: getattr(predictor.inference, name) for name in names}, predictor.inference_with)

    def inference(self, given: Mapping[str, str]) -> Inference | None:
        """What makes results with the values that a request gives; None where it gives none.

        Raises:
            Refusal: 400 for what is no number, or none that the option takes.
        """
        if not given:
            return None
        values = {name: _number(name, text) for name, text in given.items()}
        try:
            return self._build(**values)
        except UserError as error:
            raise Refusal(400, str(error)) from None


def _number(name: str, text: str) -> int | float:
    if len(text) <= LONGEST:
        if re.fullmatch("[0-9]+", text):
            return int(text)
        if re.fullmatch(r"[0-9]*\.?[0-9]+([eE]-?[0-9]{1,2})?", text):
            return float(text)
    raise Refusal(400, f"{name}: expected a number, got {text[:LONGEST]!r}")
