"""The typed sections of a detection config. Names are PaddleDetection's, where it has them."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from ppcls_ext.core.bounds import MOST_EPOCHS
from ppcls_ext.core.config import Section
from ppcls_ext.data.loader import Sampler, Workers
from ppcls_ext.tasks.export import ExportSection as CommonExport


class DatasetSection(Section):
    """`DataLoader.<split>.dataset`: a COCO json and its images, both relative to `Global.data_root`.

    What is left out is looked for: `annotations/instances_<split>.json`, and the images in `images/<split>/`,
    `<split>/`, `images/` or the root itself.
    """

    name: Literal["COCODataSet"] = "COCODataSet"
    anno_path: str | None = None
    image_dir: str | None = None
    transform_ops: list[Any] | None = None  # operations on one image, see `det.transforms`
    batch_transform_ops: list[Any] | None = None  # `BatchRandomResize`; without it every batch has Global.image_shape


class LoaderSection(Section):
    """`DataLoader.<split>`."""

    dataset: DatasetSection = DatasetSection()
    sampler: Sampler = Sampler()
    loader: Workers = Workers()


class ArchSection(Section):
    """`Arch`. Widths are those of the public configs (see `det.network`)."""

    name: Literal["PicoDet"]
    recipe: Literal["gfl", "tal"] = "gfl"
    class_num: int | Literal["auto"] | None = "auto"
    backbone: dict[str, Any]
    width: int = pydantic.Field(default=96, ge=8, le=2048)  # channels of neck and head
    convs: int = pydantic.Field(default=2, ge=1, le=32)  # convolutions in each branch of the head
    # tal: epochs with ATSS; default a third of all
    static_epochs: int | None = pydantic.Field(default=None, ge=0, le=MOST_EPOCHS)
    public_weights: str | None = None  # address of the published file; see `det.weights.find_public`


class ResizeSection(Section):
    """`Resize`: how images get the input size, except with `BatchRandomResize`, which decides for itself."""

    interpolation: Literal["nearest", "linear", "area", "cubic", "lanczos"] = "linear"  # OpenCV's


class NmsSection(Section):
    """`NMS`: which of the network's boxes are kept. Defaults are those of the public PicoDet configs."""

    score_threshold: float = pydantic.Field(default=0.025, ge=0, lt=1)
    nms_threshold: float = pydantic.Field(default=0.6, gt=0, le=1)  # IoU above which the weaker box goes
    nms_top_k: int = pydantic.Field(default=1000, ge=1, le=100_000)  # candidates of each class
    keep_top_k: int = pydantic.Field(default=100, ge=1, le=100_000)  # boxes of each image


class InferSection(Section):
    """`Infer`: what is shown of the boxes that were kept."""

    infer_imgs: str | list[str] | None = None
    threshold: float = pydantic.Field(default=0.3, ge=0, lt=1)  # least score of a box in results and pictures
    category_ids: list[int] | None = None  # ids of the classes in COCO results; found from the data


class ExportSection(CommonExport):
    """`Export`."""

    nms: bool = True  # NMS is part of the graph; False exports raw scores and boxes, and NMS is done in NumPy
