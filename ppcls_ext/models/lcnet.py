"""The backbone: one constructor, which turns a spec into layers (PP-LCNet's, or any of the space).

Parameter names are those of the public weights, so public `.pdparams` files load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from ppcls_ext.models.layers import ACTIVATION_LAYERS, Block, ConvBNLayer, undecayed_norm
from ppcls_ext.models.network_spec import LARGEST_STRIDE, STAGES, STEM_KERNEL, STRIDES, NetworkSpec
from ppcls_ext.models.spec import LCNetSpec

FEATURE_STRIDES = (4, 8, 16, LARGEST_STRIDE)


class PPLCNet(nn.Layer):
    """PP-LCNet (paper Table 1), or any other network of the space, with a classification head or as feature extractor.

    Args:
        spec: which network: one of the family by its scale and masks, or any by its blocks.
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
        spec: LCNetSpec | NetworkSpec,
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
        network = spec.network() if isinstance(spec, LCNetSpec) else spec
        self.conv1 = ConvBNLayer(3, network.stem, STEM_KERNEL, network.strides[0], 1, network.act, lr_mult_list[0])
        stages: list[list[nn.Layer]] = [[] for _ in STAGES]
        reached, dilation = STRIDES[0], 1  # nominal stride so far, and the dilation that replaces later strides
        self.feature_channels: dict[int, int] = {}
        for stage, position, block, in_channels, stride in network.placed_blocks():
            used_dilation, held = dilation, False
            if position == 0 and STRIDES[stage + 1] == 2:
                reached *= 2
                if reached > output_stride:
                    # The strided convolution itself still looks at the old grid: only what follows is dilated.
                    held, dilation = True, dilation * 2
            lr_mult = lr_mult_list[stage + 1]
            stages[stage].append(Block(block, in_channels, stride, lr_mult, held, used_dilation))
            if reached in FEATURE_STRIDES:
                self.feature_channels[reached] = block.width
        for name, blocks in zip(STAGES, stages, strict=True):
            self.add_sublayer(name, nn.Sequential(*blocks))

        self.last_conv = self.fc = None
        if class_num:
            self._add_head(network)

    def _add_head(self, network: NetworkSpec) -> None:
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        if network.last_width:
            self.last_conv = nn.Conv2D(network.out_channels, network.last_width, 1, bias_attr=False)
            self.last_norm = undecayed_norm(network.last_width) if network.last_norm else nn.Identity()
            self.act = ACTIVATION_LAYERS[network.act]()
            # The mode of the released weights: inference multiplies by 1 - dropout.
            self.dropout = nn.Dropout(network.dropout, mode="downscale_in_infer")
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(network.last_width or network.out_channels, self.class_num)

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
            x = self.dropout(self.act(self.last_norm(self.last_conv(x))))
        return self.fc(self.flatten(x))
