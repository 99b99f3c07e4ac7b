"""The moving average of weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.training.averaging import EMA, Average


class Network(nn.Layer):
    """A weight, a buffer of doubles, one of a single number and one that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("scale", paddle.ones([2], "float64"))
        self.register_buffer("step", paddle.to_tensor(1.0))  # of no dimension
        self.register_buffer("count", paddle.zeros([1], "int64"))


@pytest.mark.parametrize(("warmup", "decay"), [(True, 2 / 11), (False, 0.75)])
def test_the_average_moves_by_what_the_decay_leaves(warmup: bool, decay: float) -> None:
    network = Network()
    average = Average(EMA(decay=0.75, warmup=warmup), network)
    before = {name: mean.numpy() for name, mean in average.tensors.items()}
    for tensor in network.state_dict().values():
        tensor.set_value(tensor + 4)
    average.update(network, 1)
    for name, tensor in network.state_dict().items():
        mean = average.tensors[name]
        assert (mean.dtype, mean.shape) == (tensor.dtype, tensor.shape)
        moved = tensor.numpy() if name == "count" else before[name] * decay + tensor.numpy() * (1 - decay)
        np.testing.assert_allclose(mean.numpy(), moved, rtol=1e-6)
