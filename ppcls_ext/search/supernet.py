"""Every network of a space in one set of weights: a smaller network has the first channels, the middle of the kernels
and the first blocks of the largest. The weights begin so that wider and deeper networks give nearly what the smallest
gives.

A network that is cut out is an ordinary one, whose parameters are slices of the shared ones: it runs on whatever
kernels networks run on, and gradients find their way back through the slices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, KaimingNormal
from paddle.regularizer import L2Decay

from ppcls_ext.models.block_kinds import BLOCK_KINDS, BlockSpec
from ppcls_ext.models.layers import Block
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.network_spec import IMAGE_CHANNELS, STAGES, STEM_KERNEL, STRIDES, NetworkSpec
from ppcls_ext.models.weights import Weights, numpy_state
from ppcls_ext.search.space import Space, StageSpace, with_width

Shape = tuple[int, ...]
Pick = Callable[..., Any]  # `max` or `min`

NORMS = ("bn", "identity", "last_norm")  # what batch norms are called in `ppcls_ext.models`


class Subnet(NamedTuple):
    """A network of a supernet.

    Attributes:
        network: an ordinary one, but for its parameters, which are slices.
        parts: for each slice the layer that it is an attribute of, its name there, the name of the shared tensor, and
            the shape.
    """

    spec: NetworkSpec
    network: PPLCNet
    parts: Sequence[tuple[nn.Layer, str, str, Shape]]


class Supernet(nn.Layer):
    """The shared weights of a space; `cut` gives a network of it.

    Blocks of different kinds share nothing: the channels of one mean something else than those of another.

    Args:
        class_num: classes of the head, at least 1.
    """

    def __init__(self, space: Space, class_num: int) -> None:
        super().__init__()
        self.space, self.class_num = space, class_num
        smallest = shared_shapes(space, class_num, min)
        for name, shape in shared_shapes(space, class_num).items():
            parameter = self.create_parameter(list(shape), attr=_attribute(name, shape))
            self.add_parameter(name, parameter)
            if not (_is_further(name, space) and _hands_on(name, parameter)):
                _hide_what_is_larger(parameter, smallest[name])

    def cut(self, spec: NetworkSpec) -> Subnet:
        """A network of the space on the shared weights, without dropout. Its batch norms have no statistics yet."""
        with paddle.utils.unique_name.guard():  # names of what is thrown away must not count up
            network = PPLCNet(spec.replace(dropout=0.0), self.class_num)
        parts = []
        for layer_name, layer in network.named_sublayers():
            for name, parameter in list(layer._parameters.items()):
                if parameter is not None and not parameter.stop_gradient:  # statistics of norms are a network's own
                    parts.append((layer, name, shared_name(f"{layer_name}.{name}", spec), tuple(parameter.shape)))
                    del layer._parameters[name]
        subnet = Subnet(spec, network, parts)
        self.lend(subnet)
        return subnet

    def lend(self, subnet: Subnet) -> None:
        """Give a network the shared weights as they are now."""
        for layer, name, shared, shape in subnet.parts:
            # Not a parameter of the layer, but an attribute: gradients go on to the shared tensor.
            object.__setattr__(layer, name, _slice(self._parameters[shared], shape))

    def weights_of(self, subnet: Subnet) -> Weights:
        """The weights of a network as a file of its own holds them, with the statistics that its norms have."""
        names = {id(layer): name for name, layer in subnet.network.named_sublayers()}
        weights = numpy_state(subnet.network)  # the statistics: no parameter is left
        for layer, name, shared, shape in subnet.parts:
            weights[f"{names[id(layer)]}.{name}"] = _slice(self._parameters[shared], shape).numpy()
        return weights

    def start_from(self, weights: Mapping[str, np.ndarray], spec: NetworkSpec) -> int:
        """Set what a trained network of the space, or of a wider one, has; the rest stays.

        Gives how many tensors it has set, at least in part. A head of another number of classes is left out.

        Args:
            weights: by the names of public weights.
            spec: of the network that they are of, for the kinds of its blocks.
        """
        found = 0
        for name, value in weights.items():
            shared = self._parameters.get(shared_name(name, spec))
            if shared is None or len(shared.shape) != value.ndim:
                continue
            if name.startswith("fc.") and value.shape[-1] != self.class_num:
                continue
            own = shared.numpy()
            both = tuple(min(a, b) for a, b in zip(own.shape, value.shape, strict=True))
            own[_window(own.shape, both)] = value[_window(value.shape, both)]
            shared.set_value(own)
            found += 1
        return found


def shared_name(name: str, spec: NetworkSpec) -> str:
    """Name of the shared tensor that a tensor of a network is a part of; Paddle wants no dots in it."""
    parts = name.split(".")
    if parts[0] in STAGES:
        blocks = spec.stages[STAGES.index(parts[0])]
        index = int(parts[1])
        parts.insert(2, blocks[min(index, len(blocks) - 1)].kind)
    elif parts[0] == "fc" and not spec.last_width:
        parts[0] = "fc_of_trunk"  # its inputs are others than those of a classifier behind the last convolution
    return "/".join(parts)


def shared_shapes(space: Space, class_num: int, pick: Pick = max) -> dict[str, Shape]:
    """The shape of each shared tensor: in every dimension the largest that a network of the space has.

    Args:
        pick: `min` gives the smallest, of the networks that have such a tensor.
    """
    stem = pick(space.stems)
    shapes: dict[str, Shape] = {
        "conv1/conv/weight": (stem, IMAGE_CHANNELS, STEM_KERNEL, STEM_KERNEL),
        "conv1/bn/weight": (stem,),
        "conv1/bn/bias": (stem,),
    }
    before = stem
    for stage, (name, allowed) in enumerate(zip(STAGES, space.stages, strict=True)):
        for position in range(max(allowed.depths)):
            own = pick(allowed.widths)
            # A stage that may be empty hands on what it gets.
            channels = own if position else before
            for kind, tensors in _block_shapes(allowed, channels, 1 if position else STRIDES[stage + 1], pick).items():
                for tensor, shape in tensors.items():
                    shapes[f"{name}/{position}/{kind}/{tensor}"] = shape
        before = pick(before, *allowed.widths) if 0 in allowed.depths else pick(allowed.widths)
    if any(space.last_widths):
        last = pick(filter(None, space.last_widths))
        shapes |= {"last_conv/weight": (last, before, 1, 1), "fc/weight": (last, class_num), "fc/bias": (class_num,)}
    if 0 in space.last_widths:
        shapes |= {"fc_of_trunk/weight": (before, class_num), "fc_of_trunk/bias": (class_num,)}
    return shapes


@functools.lru_cache(maxsize=64)  # all blocks of a stage but the first have the same, and making layers takes long
def _block_shapes(stage: StageSpace, in_channels: int, stride: int, pick: Pick) -> dict[str, dict[str, Shape]]:
    """For each kind of block of a stage, the tensors of its blocks, as large as the largest (or smallest) of them."""
    found: dict[str, dict[str, Shape]] = {}
    # Activations have no parameters.
    choices: dict[tuple[object, ...], BlockSpec] = {
        (b.kind, b.kernel, b.se, b.expansion, b.groups, b.start_kernel): b for b in stage.blocks
    }
    for choice in choices.values():
        with paddle.utils.unique_name.guard(), paddle.LazyGuard():  # without values, which would be drawn
            block = Block(with_width(choice, pick(stage.widths)), in_channels, stride, 1.0)
        tensors = found.setdefault(choice.kind, {})
        for name, parameter in block.named_parameters():
            if parameter.stop_gradient:  # statistics of norms
                continue
            key, shape = name.replace(".", "/"), tuple(parameter.shape)
            tensors[key] = tuple(map(pick, tensors.get(key, shape), shape))
    return found


def _attribute(name: str, shape: Shape) -> ParamAttr:
    """Initial values and decay, as the layers of a network have them (`ppcls_ext.models.layers`)."""
    if name.split("/")[-2] in NORMS:
        return ParamAttr(initializer=Constant(1.0 if name.endswith("weight") else 0.0), regularizer=L2Decay(0.0))
    if name.endswith("bias"):
        return ParamAttr(initializer=Constant(0.0))
    return ParamAttr(initializer=KaimingNormal()) if len(shape) == 4 else ParamAttr()


def _is_further(name: str, space: Space) -> bool:
    """Whether a tensor is of a block after a stage's first that the shallowest network has not."""
    parts = name.split("/")
    return parts[0] in STAGES and int(parts[1]) >= max(1, min(space.stages[STAGES.index(parts[0])].depths))


def _hands_on(name: str, parameter: paddle.Tensor) -> bool:
    """Begin a tensor of a further block so that the block hands on what it gets: behind one of random weights nothing
    that was learned is where it was. A convolution in groups stays random, since its groups are others at each width.

    Gives whether every channel reads itself alone, so that nothing is to be hidden; a channel that reads nothing is
    constant, and its norm makes its gradient explode.
    """
    kind, part, *_, last = name.split("/")[2:]
    shape = tuple(parameter.shape)
    of_kind: Any = BLOCK_KINDS[kind]
    if of_kind.residual:  # the shortcut hands on; what is added to it begins with nothing
        if part in ("conv", "pw_conv") and name.endswith("bn/weight"):
            parameter.set_value(np.zeros(shape, np.float32))
        return False
    if last != "weight" or len(shape) != 4 or part == "se" or shape[1] not in (1, shape[0]):
        return False
    values = np.zeros(shape, np.float32)
    channels = np.arange(shape[0])
    values[channels, channels if shape[1] > 1 else 0, (shape[2] - 1) // 2, (shape[3] - 1) // 2] = 1
    parameter.set_value(values)
    return True


def _hide_what_is_larger(parameter: paddle.Tensor, smallest: Shape) -> None:
    """Begin with zero where a layer reads channels, or sees pixels, that the smallest layer has not.

    Every width and kernel then gives at first what the smallest gives, and improves on it. With random values what the
    first channels have learned for the smallest network would drown in channels that mean nothing yet.
    """
    if len(smallest) == 1:
        return  # of one channel each, whoever reads it
    whole = tuple(parameter.shape)
    # A convolution is [to, from, height, width], a linear layer [from, to].
    part = (whole[0], *smallest[1:]) if len(whole) == 4 else (smallest[0], whole[1])
    values = parameter.numpy()
    window = _window(whole, part)
    hidden = np.zeros_like(values)
    hidden[window] = values[window]
    parameter.set_value(hidden)


def _window(whole: Shape, part: Shape) -> tuple[slice, ...]:
    """Where a part lies in a tensor: first channels, and the middle of a kernel (which is padded as `layers` does)."""
    starts = [
        0 if axis < 2 else (w - 1) // 2 - (p - 1) // 2 for axis, (w, p) in enumerate(zip(whole, part, strict=True))
    ]
    return tuple(slice(start, start + p) for start, p in zip(starts, part, strict=True))


def _slice(shared: paddle.Tensor, shape: Shape) -> paddle.Tensor:
    whole = tuple(shared.shape)
    return shared if whole == shape else shared[_window(whole, shape)].contiguous()
