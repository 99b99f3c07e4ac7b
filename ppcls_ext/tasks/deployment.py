"""What export asks of a task: a network that does all of inference, and what goes around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from paddle import nn


class Input(NamedTuple):
    """An input of an exported network; -1 in `shape` is any size."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Deployment(NamedTuple):
    """What export needs: a layer that does all of inference in the graph, and what goes around it.

    Attributes:
        model: in eval mode; takes `inputs` in order and returns a tensor or a list of tensors.
        inputs: of the exported graph.
        outputs: their names, in order.
        recipe: pre- and postprocessing and labels, as plain data for `inference.yml`.
        samples: `samples(n)` gives realistic inputs of batch n, one array for each of `inputs`.
        compare: measures how far outputs are from those of dygraph (same order, one list of arrays each);
            must be at most `tolerance`.
        tolerance: the largest value of `compare` at which an export counts as equal to dygraph.
        also: another form of the same network on the same inputs, which is exported, checked and thrown away. It is for
            a `model` that hides most of what it computes (a class map hides its logits, and NMS gives nothing where
            nothing is found).
        onnx_is_also: whether ONNX, where an operator of `model` is missing, gets `also` instead; the task's `Inference`
            then takes the outputs of either.
    """

    model: nn.Layer
    inputs: Sequence[Input]
    outputs: Sequence[str]
    recipe: Mapping[str, Any]
    samples: Callable[[int], list[np.ndarray]]
    compare: Callable[[list[np.ndarray], list[np.ndarray]], float]
    tolerance: float
    also: Deployment | None = None
    onnx_is_also: bool = False
