"""What export asks of a task: a network that does all of inference, and what goes around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
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
        difference: how far outputs are from those of dygraph (one list of arrays each, in the same order); it
            must be at most `tolerance`.
        tolerance: the largest `difference` at which an export counts as equal to dygraph.
        also: another form of the same network on the same inputs, which is exported, checked and thrown away. It is for
            a `model` that hides most of what it computes (a class map hides its logits, and NMS gives nothing where
            nothing is found).
        onnx_is_also: whether ONNX, where an operator of `model` is missing, gets `also` instead; the task's `Inference`
            then takes the outputs of either.
        remarks: what whoever runs the export has to know, which export says.
    """

    model: nn.Layer
    inputs: Sequence[Input]
    outputs: Sequence[str]
    recipe: Mapping[str, Any]
    samples: Callable[[int], list[np.ndarray]]
    difference: Callable[[list[np.ndarray], list[np.ndarray]], float]
    tolerance: float
    also: Deployment | None = None
    onnx_is_also: bool = False
    remarks: Sequence[str] = ()


class FromPixels(nn.Layer):
    """A network that normalises by itself: uint8 RGB [N, H, W, 3] to what `network` gives for float32 [N, 3, H, W].

    The mean stays out of the first convolution, which pads with zeros after it was taken away: folded into the bias, it
    would change the pixels at the border.

    Args:
        mean, std: of pixels in 0..1.
    """

    def __init__(self, network: nn.Layer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("low", mean), ("width", std)):
            scaled = (np.array(values, np.float32) * 255).reshape(1, 3, 1, 1)
            self.register_buffer(name, paddle.to_tensor(scaled), persistable=True)

    def forward(self, pixels: paddle.Tensor) -> Any:
        """What the network gives for the normalised pixels."""
        # Moving bytes is a quarter of the work of moving floats.
        return self.network((pixels.transpose([0, 3, 1, 2]).astype("float32") - self.low) / self.width)


def from_pixels(deployment: Deployment, mean: Sequence[float], std: Sequence[float]) -> Deployment:
    """The same deployment, of a network that takes images as uint8 RGB [N, H, W, 3] as its one input.

    Args:
        mean, std: of pixels in 0..1, as preprocessing has used them so far.
    """
    (given,) = deployment.inputs
    batch, channels, height, width = given.shape
    low, span = (np.array(values, np.float32).reshape(3, 1, 1) * 255 for values in (mean, std))

    def samples(count: int) -> list[np.ndarray]:
        (normalised,) = deployment.samples(count)
        pixels = np.clip(np.rint(normalised * span + low), 0, 255).astype(np.uint8)
        return [np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))]

    return deployment._replace(
        model=FromPixels(deployment.model, mean, std),
        inputs=[Input(given.name, (batch, height, width, channels), "uint8")],
        recipe={**deployment.recipe, "preprocess": {**deployment.recipe["preprocess"], "input": "uint8"}},
        samples=samples,
        also=None if deployment.also is None else from_pixels(deployment.also, mean, std),
    )
