"""Workarounds for PaddleDetection."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ppcls_ext.upstream.imports import quiet_import

# paddledet 2.6.0 imports scikit-learn and Matplotlib for trackers and key points, with any detector; see
# `ppcls_ext.upstream.paddleclas.LATER`. Can go when PaddleDetection does not.
LATER: Mapping[str, Sequence[str]] = {
    "ppdet.modeling.mot.tracker.center_tracker": ("sklearn",),
    "ppdet.modeling.mot.tracker.botsort_tracker": ("matplotlib", "matplotlib.pyplot"),
    "ppdet.modeling.mot.motion.gmc": ("matplotlib", "matplotlib.pyplot"),
    "ppdet.data.transform.keypoints_3d_operators": (
        "matplotlib",
        "matplotlib.pyplot",
        "mpl_toolkits",
        "mpl_toolkits.mplot3d",
    ),
}


def ppdet(name: str) -> Any:
    """The module `ppdet.<name>` of PaddleDetection, imported without its noise: hints that packages for tracking
    are absent, and a filter that silences all warnings of the process for good (paddledet 2.6.0).
    """
    with quiet_import():
        return importlib.import_module(f"ppdet.{name}")


def give_ppdet_plain_loggers(logger_module: Any) -> None:
    """paddledet 2.6.0: `setup_logger` gives each of its loggers (and two with names of anybody's, "reader" and
    "sniper_coco_dataset") a handler that writes to stdout. They stay plain loggers here, warnings and up to stderr.
    Can go when `setup_logger` adds no handler unless it is told to.
    """
    logger_module.setup_logger = lambda name="ppdet", output=None: logging.getLogger(name)


def let_ppdet_nms_into_pir(ops: Any) -> None:
    """paddledet 2.6.0: `multiclass_nms` appends an operator by hand while a graph is traced, which the graph of
    paddle 3 (PIR) refuses: "The type of '%BBoxes' in operator multiclass_nms3 should be one of [str, bytes, Variable]".
    Under PIR the generated call is made instead. Can go when paddledet asks for PIR too.
    """
    import paddle

    original = ops.multiclass_nms

    def multiclass_nms(
        bboxes: Any,
        scores: Any,
        score_threshold: float,
        nms_top_k: int,
        keep_top_k: int,
        nms_threshold: float = 0.3,
        normalized: bool = True,
        nms_eta: float = 1.0,
        background_label: int = -1,
        return_index: bool = False,
        return_rois_num: bool = True,
        rois_num: Any = None,
        name: str | None = None,
    ) -> tuple[Any, Any, Any]:
        limits = (score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized, nms_eta, background_label)
        if not paddle.base.framework.in_pir_mode():
            return original(bboxes, scores, *limits, return_index, return_rois_num, rois_num, name)
        rows, index, counts = paddle._C_ops.multiclass_nms3(bboxes, scores, rois_num, *limits)
        return rows, counts if return_rois_num else None, index if return_index else None

    ops.multiclass_nms = multiclass_nms


@contextlib.contextmanager
def sums_over_processes() -> Iterator[None]:
    """paddledet 2.6.0: `GFLHead.get_loss` divides by a mean over processes that is at least 1, so what it divides by
    for the whole batch is at least the number of processes, and a batch with little in it has a smaller loss in
    several. Inside, its sums stay sums, at least 1. Can go when the floor is that of the whole batch.
    """
    from paddle import distributed

    real = distributed.get_world_size
    distributed.get_world_size = lambda group=None: 1
    try:
        yield
    finally:
        distributed.get_world_size = real


def let_quality_focal_loss_promote(gfocal_loss: Any) -> None:
    """paddledet 2.6.0: `quality_focal_loss` multiplies float32 by bool, which paddle 3 refuses ("Type promotion only
    support calculations between floating-point numbers"). The same loss, as one term for all classes: positives
    aim at their quality, everything else at 0. Can go when paddledet casts.
    """
    from paddle.nn import functional

    def quality_focal_loss(pred: Any, target: tuple[Any, Any], beta: float = 2.0, use_sigmoid: bool = True) -> Any:
        label, quality = target
        classes = pred.shape[1]
        # One column more than classes: label `classes` is the background.
        goal = functional.one_hot(label, classes + 1)[:, :classes] * quality.astype("float32").unsqueeze(-1)
        cross_entropy = functional.binary_cross_entropy_with_logits if use_sigmoid else functional.binary_cross_entropy
        probability = functional.sigmoid(pred) if use_sigmoid else pred
        return (cross_entropy(pred, goal, reduction="none") * (goal - probability).abs().pow(beta)).sum(axis=1)

    gfocal_loss.quality_focal_loss = quality_focal_loss
