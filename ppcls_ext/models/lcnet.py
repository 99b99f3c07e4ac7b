"""The PP-LCNet backbone: one constructor, which turns a spec (`ppcls_ext.models.spec`) into layers.

Parameter names are those of the public weights, so public `.pdparams` files load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal
from paddle.regularizer import L2Decay

from ppcls_ext.models.spec import BASE_STEM_WIDTH, BLOCKS, LARGEST_STRIDE, STAGES, LCNetSpec

FEATURE_STRIDES = (4, 8, 16, LARGEST_STRIDE)
ACTIVATIONS = {"hardswish": nn.Hardswish, "relu": nn.ReLU}


class ConvBNLayer(nn.Layer):
    """Convolution without bias, batch norm, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        groups: int,
        act: str,
        lr_mult: float,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel,
            stride,
            (kernel - 1) // 2 * dilation,
            dilation=dilation,
            groups=groups,
            weight_attr=ParamAttr(initializer=KaimingNormal(), learning_rate=lr_mult),
            bias_attr=False,
        )
        # No weight decay on batch norm (the paper's training setting).
        self.bn = nn.BatchNorm2D(
            out_channels,
            weight_attr=ParamAttr(regularizer=L2Decay(0.0), learning_rate=lr_mult),
            bias_attr=ParamAttr(regularizer=L2Decay(0.0), learning_rate=lr_mult),
        )
        self.act = ACTIVATIONS[act]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H / stride, W / stride]."""
        return self.act(self.bn(self.conv(x)))


class SEModule(nn.Layer):
    """Squeeze and excitation with ReLU and H-Sigmoid (slope 1/6, offset 0.5), reduction 4."""

    def __init__(self, channels: int, lr_mult: float, reduction: int = 4) -> None:
        super().__init__()
        attrs = {"weight_attr": ParamAttr(learning_rate=lr_mult), "bias_attr": ParamAttr(learning_rate=lr_mult)}
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv1 = nn.Conv2D(channels, channels // reduction, 1, **attrs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2D(channels // reduction, channels, 1, **attrs)
        self.hardsigmoid = nn.Hardsigmoid()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Scale the channels of float32 [N, C, H, W]."""
        gate = self.relu(self.conv1(self.avg_pool(x)))
        return x * self.hardsigmoid(self.conv2(gate))


class DepthwiseSeparable(nn.Layer):
    """Depthwise conv, SE where the spec marks it, pointwise conv.

    The paper's Figure 2 draws SE last; the released code and weights have it between the two convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        use_se: bool,
        act: str,
        lr_mult: float,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.dw_conv = ConvBNLayer(in_channels, in_channels, kernel, stride, in_channels, act, lr_mult, dilation)
        self.se = SEModule(in_channels, lr_mult) if use_se else None
        self.pw_conv = ConvBNLayer(in_channels, out_channels, 1, 1, 1, act, lr_mult)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H / stride, W / stride]."""
        x = self.dw_conv(x)
        if self.se is not None:
            x = self.se(x)
        return self.pw_conv(x)


class PPLCNet(nn.Layer):
    """PP-LCNet (paper Table 1) with a classification head, or as a feature extractor.

    Args:
        spec: which network of the family.
        class_num: classes of the head. 0 builds the trunk alone, for detection and segmentation.
        lr_mult_list: learning-rate multipliers of the stem and of blocks2 to blocks6.
        output_stride: 32, or 16 or 8, for which the last strides become dilations (segmentation).

    Attributes:
        feature_channels: channels of the maps that `features` returns, by stride (4, 8, 16, 32).

    Shapes: input float32 [N, 3, H, W], RGB, normalised. `forward` gives logits float32 [N, class_num];
    `features` gives a dict from nominal stride to float32 [N, C, H/stride, W/stride] (at an `output_stride`
    below 32 the deeper maps keep that stride's size).
    """

    def __init__(
        self,
        spec: LCNetSpec,
        class_num: int = 1000,
        lr_mult_list: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if len(lr_mult_list) != 1 + len(STAGES):
            raise ValueError(f"lr_mult_list must have {1 + len(STAGES)} numbers (stem, {', '.join(STAGES)})")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if class_num < 0:
            raise ValueError(f"class_num must be >= 0, got {class_num}")
        self.spec = spec
        self.class_num = class_num
        stem_stride, *stage_strides = spec.strides
        first_strides = dict(zip(STAGES[1:], stage_strides, strict=True))
        lr_mults = dict(zip(STAGES, lr_mult_list[1:], strict=True))

        channels = spec.width(BASE_STEM_WIDTH)
        self.conv1 = ConvBNLayer(3, channels, 3, stem_stride, 1, spec.act, lr_mult_list[0])
        reached, dilation = 2, 1  # nominal stride so far, and the dilation that replaces strides past output_stride
        stages: dict[str, list[nn.Layer]] = {stage: [] for stage in STAGES}
        self.feature_channels: dict[int, int] = {}
        for block, use_se, large in zip(BLOCKS, spec.se, spec.kernel5, strict=True):
            stride = first_strides[block.stage] if block.stride == 2 else 1
            used_dilation = dilation
            if block.stride == 2:
                reached *= 2
                if reached > output_stride:
                    # The strided convolution itself still looks at the old grid: only what follows is dilated.
                    stride, dilation = 1, dilation * 2
            out_channels = spec.width(block.width)
            kernel = 5 if large == "1" else 3
            stages[block.stage].append(
                DepthwiseSeparable(
                    channels,
                    out_channels,
                    kernel,
                    stride,
                    use_se == "1",
                    spec.act,
                    lr_mults[block.stage],
                    used_dilation,
                )
            )
            channels = out_channels
            if reached in FEATURE_STRIDES:
                self.feature_channels[reached] = channels
        for stage, blocks in stages.items():
            self.add_sublayer(stage, nn.Sequential(*blocks))

        self.last_conv = self.fc = None
        if class_num:
            self.avg_pool = nn.AdaptiveAvgPool2D(1)
            if spec.last_width:
                self.last_conv = nn.Conv2D(channels, spec.last_width, 1, bias_attr=False)
                self.act = ACTIVATIONS[spec.act]()
                # The mode of the released weights: inference multiplies by 1 - dropout.
                self.dropout = nn.Dropout(spec.dropout, mode="downscale_in_infer")
            self.flatten = nn.Flatten()
            self.fc = nn.Linear(spec.last_width or channels, class_num)

    def features(self, x: paddle.Tensor) -> dict[int, paddle.Tensor]:
        """The last map at each nominal stride 4, 8, 16, 32."""
        x4 = self.blocks3(self.blocks2(self.conv1(x)))
        x8 = self.blocks4(x4)
        x16 = self.blocks5(x8)
        x32 = self.blocks6(x16)
        return {4: x4, 8: x8, 16: x16, 32: x32}

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits float32 [N, class_num] of images float32 [N, 3, H, W].

        Raises:
            TypeError: the network was built without a head.
        """
        if self.fc is None:
            raise TypeError("this PPLCNet was built with class_num=0 and has no head: call features()")
        x = self.avg_pool(self.features(x)[LARGEST_STRIDE])
        if self.last_conv is not None:
            x = self.dropout(self.act(self.last_conv(x)))
        return self.fc(self.flatten(x))
