"""A classifier that learns from a teacher's outputs: the `Distill` section at work on a task's data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.cls.data import ClassificationData
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy.frozen import on_engine
from ppcls_ext.training.distillation import DIVERGENCES, Cache, DistillSection, Teacher, digest_of_paths, find_teacher
from ppcls_ext.upstream.paddle import tensor_of


class Distillation:
    """The teacher of a config, its cached outputs if the config asks for them, and the loss against them.

    Args:
        made_fast: puts our kernels into a network (`Task.made_fast`).
    """

    def __init__(
        self, section: DistillSection, data: ClassificationData, made_fast: Callable[[nn.Layer], nn.Layer]
    ) -> None:
        self.section, self.data, self._made_fast = section, data, made_fast
        self._engine = section.engine  # once the teacher is loaded: the one that runs it

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The network to learn from. Raises UserError if it is not there or has other classes."""
        return Teacher(find_teacher(self.section.teacher), self.data.classes.names, self._frozen)

    def _frozen(self, model: nn.Layer) -> nn.Layer:
        """The teacher's network on an engine, or with our kernels where none fits."""
        if paddle.get_device() != "cpu":
            return model
        shape = self.data.global_section.image_shape
        network, self._engine = on_engine(model, shape, self.section.engine, "teacher", say)
        return self._made_fast(model) if network is model else network

    @functools.cached_property
    def cache(self) -> Cache | None:
        """The teacher's outputs on disk; None where the teacher runs in every step."""
        if self.section.cache is None:
            return None
        if self.data.mixes_batches:
            raise UserError(
                "Distill.cache: mixed batches (batch_transform_ops) differ each time; leave one of both out"
            )
        images = self.data.train_split
        key = {
            "teacher": self.teacher.digest,
            "images": digest_of_paths(images.paths),
            "transforms": self.data.transform_ops("Train"),
            "crop_seed": self.section.crop_seed,
        }
        shape = (self.section.cache_epochs, len(images), self.data.classes.count)
        return Cache(Path(self.section.cache), key, shape)

    @property
    def cached_crops(self) -> tuple[int, int] | None:
        """`cached` of `ClassificationData.make_loader`."""
        return None if self.cache is None else (self.section.crop_seed, self.section.cache_epochs)

    def prepare(self) -> None:
        """Fill the cache, or load the teacher, so that wrong weights are found before there is a run folder."""
        if self.cache is None:
            _ = self.teacher.model
        else:
            self.cache.fill(self.teacher, self.data.make_loader("Train", self.cached_crops, whole=True))

    def loss(
        self, logits: paddle.Tensor, images: paddle.Tensor, keys: list[paddle.Tensor]
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The weighted divergence from the teacher, and the share of images on which both choose the same class.

        Args:
            logits: the student's, float32 [N, classes].
            images: float32 [N, 3, H, W].
            keys: with a cache, one tensor of sample keys, int64 [N, 3]; else empty.
        """
        soft = self.teacher.logits(images) if self.cache is None else tensor_of(self.cache.logits(keys[0].numpy()))
        divergence = DIVERGENCES[self.section.divergence](logits, soft) * self.section.weight
        return divergence, (logits.argmax(-1) == soft.argmax(-1)).astype("float32").mean()

    def fingerprint(self) -> dict[str, Any]:
        """What an exact resume must find again, JSON-able."""
        settings = self.section.model_dump(exclude={"teacher", "cache", "engine"})
        return {"distillation": {**settings, "teacher": self.teacher.digest, "cached": self.section.cache is not None}}

    def resolve(self, distill: dict[str, Any]) -> None:
        """Make the paths of a `Distill` section absolute and name the engine that was found, in place."""
        distill["engine"] = self._engine  # a resume takes the same one
        if isinstance(distill["teacher"], str):
            distill["teacher"] = str(Path(distill["teacher"]).resolve())
        else:
            distill["teacher"]["pretrained"] = str(self.teacher.files.weights.resolve())
        if self.section.cache is not None:
            distill["cache"] = str(Path(self.section.cache).resolve())
