"""The typed sections of a classification config. Names are PaddleClas's, where it has them."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.config import Section
from ppcls_ext.data.loader import Sampler, Workers


class DatasetSection(Section):
    """`DataLoader.<split>.dataset`.

    `ImageNetDataset` reads a list file (`cls_label_path`, PaddleClas's way) or, without one, class folders below
    `image_root`. `ImageFolder` finds the split in `Global.data_root` by itself (see `ppcls_ext.cls.splits.find_split`).
    """

    name: Literal["ImageNetDataset", "ImageFolder"] = "ImageNetDataset"
    image_root: str | None = None
    cls_label_path: str | None = None
    delimiter: str | None = pydantic.Field(default=None, min_length=1)
    class_names: str | None = None  # file of class names
    # ImageFolder evaluates on this share where the data has no split.
    val_fraction: float = pydantic.Field(default=0.2, gt=0, lt=1)
    transform_ops: list[Any] | None = None
    batch_transform_ops: list[Any] | None = None


class ImageWorkers(Workers):
    """`DataLoader.<split>.loader`.

    decode: `scaled` decodes JPEGs to train on at 1/2, 1/4 or 1/8 where at least twice the size of the random crop is
        left; `exact` decodes them in full, as evaluation always does.
    """

    decode: Literal["exact", "scaled"] = "exact"


class LoaderSection(Section):
    """`DataLoader.<split>`."""

    dataset: DatasetSection
    sampler: Sampler = Sampler()
    loader: ImageWorkers = ImageWorkers()


class TopkSection(Section):
    """`Infer.PostProcess`."""

    name: Literal["Topk"] = "Topk"
    topk: int = pydantic.Field(default=5, ge=1, le=MOST_CLASSES)
    class_id_map_file: str | None = None  # PaddleClas's file of class names


class InferSection(Section):
    """`Infer`: what PaddleClas's tools/infer.py reads, and the postprocessing that export writes down."""

    infer_imgs: str | list[str] | None = None
    # images that `infer -c` runs at once, unless --batch says otherwise
    batch_size: int = pydantic.Field(default=1, ge=1, le=65_536)
    transforms: list[Any] | None = None  # default: those of DataLoader.Eval
    PostProcess: TopkSection = TopkSection()
