"""A network that is not trained any more, run by an engine of the runtime in the place of Paddle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from typing_extensions import override

from ppcls_ext.core.device import kernel_threads
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.deploy.export import save_formats
from ppcls_ext.deploy.trained import dygraph_outputs
from ppcls_ext.runtime.choice import FIRST, PADDLE, PREFERRED
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, Engine
from ppcls_ext.tasks.deployment import Deployment, Input
from ppcls_ext.upstream.paddle import tensor_of

TOLERANCE = 1e-3  # largest difference of an output from Paddle's, in units of the outputs' standard deviation
TRIED = (2, 1)  # the check runs batches of these sizes: more than one, since the graph takes any
TRIED_SIDES = {2: 192, 1: 256}  # and images of these sides where the graph takes any, by the batch


class OnEngine(nn.Layer):
    """A network behind an engine: float32 [N, ...] to what the network gives, without gradients.

    Args:
        engine: takes any batch of inputs of one shape.
        shape: that shape, without the batch; -1 is any size.
        network: what the engine runs; inputs of other shapes go there.
        one: whether the network gives a tensor, not a list of them.
    """

    def __init__(self, engine: Engine, shape: Sequence[int], network: nn.Layer, one: bool) -> None:
        super().__init__()
        self._engine, self._shape, self._network, self._one = engine, tuple(shape), network, one

    @override
    def forward(self, images: paddle.Tensor) -> Any:
        shape = tuple(images.shape[1:])
        if len(shape) != len(self._shape) or any(n not in (-1, m) for n, m in zip(self._shape, shape, strict=True)):
            return self._network(images)
        outputs = [tensor_of(output) for output in self._engine([images.numpy()])]
        return outputs[0] if self._one else outputs


def engines_of(engine: str) -> list[str]:
    """The engines to try for a name, `FIRST` or `PADDLE`, in this order.

    By what is installed and never by a timing, since two runs with one seed must take the same one. Paddle's oneDNN
    comes first: it is always there, shares the threads of training, and was as fast as ONNX Runtime or faster.

    Raises:
        UserError: a name that is unknown, not installed, or computes with fewer bits than Paddle.
    """
    if engine == PADDLE:
        return []
    if engine == FIRST:
        return [name for name in PREFERRED if engine_class(name).installed()]
    if engine not in ENGINES:
        raise UserError(f"engine '{engine}' is unknown; {nearest(engine, [FIRST, PADDLE, *ENGINES])}")
    kind = engine_class(engine)
    if kind.precision != FLOAT:
        raise UserError(
            f"engine {engine} rounds numbers, which are to be Paddle's here; what that costs, pplcnet export says "
            "with -o Export.int8=true or -o Export.bf16=true"
        )
    kind.require()
    return [engine]


def on_engine(
    model: nn.Layer, shape: Sequence[int], engine: str, what: str, tell: Callable[[str], None]
) -> tuple[nn.Layer, str]:
    """`model` on an engine, where one gives the outputs that Paddle gives; else `model` itself.

    Args:
        model: in eval mode, with plain layers; one input, and a tensor or a list of tensors for it.
        shape: of an input, without the batch; -1 is any size.
        engine: a name, `FIRST`, or `PADDLE` for none.
        what: what lines for the user call the network.
        tell: takes the line that says what runs it, or why an engine does not.
    Returns:
        the network and the engine's name, `paddle` for none.
    Raises:
        UserError: as `engines_of`.
    """
    for name in engines_of(engine):
        kind = engine_class(name)
        try:
            with tempfile.TemporaryDirectory(prefix="pplcnet-") as folder, paddle.utils.unique_name.guard():
                network, difference = _opened(model, shape, kind, Path(folder))
        except Exception as error:  # tracing, translating and opening raise whatever they meet
            tell(f"{what}: not on {name}, which cannot run it ({' '.join(str(error).split())[:100]})")
            continue
        if difference <= TOLERANCE:
            tell(f"{what}: runs on {name} (largest difference from Paddle {difference:.0e}, tolerance {TOLERANCE:.0e})")
            return network, name
        tell(f"{what}: not on {name}, which differs from Paddle by {difference:.0e} (tolerance {TOLERANCE:.0e})")
    return model, PADDLE


def _opened(model: nn.Layer, shape: Sequence[int], kind: type[Engine], folder: Path) -> tuple[OnEngine, float]:
    """The network on an engine, and how far its outputs are from Paddle's."""

    def samples(count: int) -> list[np.ndarray]:
        sides = [TRIED_SIDES[count] if n == -1 else n for n in shape]
        return [np.random.default_rng(0).standard_normal((count, *sides)).astype(np.float32)]

    batches = [samples(count) for count in TRIED]
    with paddle.no_grad():
        one = isinstance(model(paddle.to_tensor(batches[0][0])), paddle.Tensor)
    expected = [dygraph_outputs(model, batch) for batch in batches]
    model_format = "pdmodel" if "pdmodel" in kind.formats else kind.formats[0]
    deployment = Deployment(
        model=model,
        inputs=[Input("x", (-1, *shape), "float32")],
        outputs=[f"y{number}" for number in range(len(expected[0]))],
        recipe={},
        samples=samples,
        difference=_difference,
        tolerance=TOLERANCE,
    )
    save_formats(deployment, folder, ["json", "onnx"] if model_format == "onnx" else [model_format])
    engine = kind(folder, kernel_threads(), model_format)
    differences = [_difference(engine(batch), outputs) for batch, outputs in zip(batches, expected, strict=True)]
    return OnEngine(engine, shape, model, one), float(np.max(differences))


def _difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of an output, in units of that output's standard deviation; NaN where there is one."""
    parts = [np.abs(a - b).max() / max(b.std(), 1e-6) for a, b in zip(found, expected, strict=True)]
    return float(np.max(parts))
