"""The typed sections of segmentation configs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from ppcls_ext.core.bounds import LARGEST_SIDE
from ppcls_ext.core.config import Section, Side
from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD
from ppcls_ext.data.loader import Sampler, Workers
from ppcls_ext.models.network_spec import LARGEST_STRIDE
from ppcls_ext.tasks.export import ExportSection as CommonExport

LARGEST_FACTOR = 4.0  # images are enlarged by no more than this
MOST_STEPS = 1000
IGNORE = 255  # pixels of this value count nowhere, once masks are read

Dilation = Annotated[int, pydantic.Field(ge=1, le=1024)]
Factor = Annotated[float, pydantic.Field(gt=0, le=LARGEST_FACTOR)]
Share = Annotated[float, pydantic.Field(ge=-10, le=10)]  # a pixel's range counts as 0 to 1
Spread = Annotated[float, pydantic.Field(gt=0, le=10)]
Pair = tuple[Side, Side]  # height, width
Step = Annotated[int, pydantic.Field(ge=8, le=LARGEST_SIDE)]  # smaller ones would run the network for hours


class ArchSection(Section):
    """`Arch`."""

    name: Literal["DeepLabV3P"] = "DeepLabV3P"
    backbone: dict[str, Any]  # name, and the arguments of that backbone (seg.backbones)
    class_num: Annotated[int, pydantic.Field(ge=2, le=IGNORE)] | Literal["auto"] | None = (
        "auto"  # auto: as the data has it
    )
    output_stride: Literal[8, 16, 32] = 32  # the paper's is 32
    aspp_ratios: tuple[Dilation, Dilation, Dilation, Dilation] | None = None  # default: by the training crop
    align_corners: bool = False


class MasksSection(Section):
    """`Masks`: how mask files are to be read. A mask has one number a pixel, its class."""

    ignore_index: int = pydantic.Field(default=IGNORE, ge=0, le=65535)  # value of pixels that count nowhere
    # Value in the files -> class (or 255, to ignore it), where they differ; all that occur must be named.
    values: dict[Annotated[int, pydantic.Field(ge=0, le=65535)], Annotated[int, pydantic.Field(ge=0, le=IGNORE)]] = {}
    class_names: str | None = None  # file of class names, one a line


class AugmentSection(Section):
    """`DataLoader.Train.dataset.augment`: what a training sample draws, then crops to `Global.image_shape`."""

    scale: tuple[float, float, float] = (0.5, 2.0, 0.25)  # least, largest, step
    flip: float = pydantic.Field(default=0.5, ge=0, le=1)  # chance of mirroring left and right
    vertical_flip: float = pydantic.Field(default=0.0, ge=0, le=1)
    distort: float = pydantic.Field(default=0.0, ge=0, lt=1)  # brightness, contrast and colour change by up to this

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        low, high, step = self.scale
        in_bounds = 0 < low <= high <= LARGEST_FACTOR and 0 < step <= LARGEST_FACTOR
        if not (in_bounds and (high - low) / step <= MOST_STEPS):
            raise ValueError(
                f"scale must be least, largest, step, all above 0, up to {LARGEST_FACTOR} in at most {MOST_STEPS} steps"
            )
        return self


class DatasetSection(Section):
    """`DataLoader.<split>.dataset`.

    `MaskFolder` finds the split in `Global.data_root` by itself (see `seg.splits.find_pairs`), `MaskList` reads a
    list file with lines `image mask`, `Cityscapes` the folders leftImg8bit and gtFine of `Global.data_root`.
    """

    name: Literal["MaskFolder", "MaskList", "Cityscapes"] = "MaskFolder"
    list_path: str | None = None  # list file of MaskList
    image_root: str | None = None  # what the paths of MaskList are relative to; default: the list's folder
    # Between image and mask in a list; default: a tab, else white space.
    delimiter: str | None = pydantic.Field(default=None, min_length=1)
    # MaskFolder evaluates on this share where the data has no split.
    val_fraction: float = pydantic.Field(default=0.2, gt=0, lt=1)
    augment: AugmentSection = AugmentSection()


class LoaderSection(Section):
    """`DataLoader.<split>`."""

    dataset: DatasetSection
    sampler: Sampler = Sampler(batch_size=1)
    loader: Workers = Workers()


class NormalizeSection(Section):
    """`Normalize`: of pixels scaled to 0..1, RGB. The default is that of ImageNet weights."""

    mean: tuple[Share, Share, Share] = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD


class EvalSection(Section):
    """`Eval`: how images are run in evaluation."""

    mode: Literal["whole", "sliding"] = "whole"
    window: Pair | None = None  # height and width of the sliding window; default: Global.image_shape
    stride: tuple[Step, Step] | None = None  # steps of the sliding window; default: two thirds of it
    flip: bool = False  # average with the mirrored image
    scales: tuple[Factor, ...] = pydantic.Field(default=(1.0,), min_length=1, max_length=16)  # averaged over


class InferSection(Section):
    """`Infer`."""

    infer_imgs: str | list[str] | None = None
    max_side: int | None = pydantic.Field(
        default=None, ge=LARGEST_STRIDE, le=LARGEST_SIDE
    )  # larger images are shrunk to it for the network


class ExportSection(CommonExport):
    """`Export`."""

    size: Pair | None = None  # height and width; null: any
    argmax: bool = True  # give the class map; false: the logits
