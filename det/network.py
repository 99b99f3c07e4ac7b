"""PicoDet out of PaddleDetection's parts, in the two forms that matter for PP-LCNet.

`gfl` is the PicoDet of September 2021, the month of the PP-LCNet paper: PAN without weights of its own but 1x1
laterals, PicoHead on strides 8, 16, 32, quality and distribution focal loss with GIoU on ATSS targets. Source: the
public PaddleDetection configs `picodet_m_mbv3_416_coco.yml` and `_base_/picodet_mbv3_0_5x.yml` of that month, whose
recipe (280 epochs, batch 56 on each of 4 cards, rate 0.3, decay 1e-4) is the paper's to the digit.

`tal` is the one of March 2022 (`configs/picodet/*_lcnet.yml`): LCPAN, PicoHeadV2, strides 8 to 64, varifocal loss on
ATSS, then task-aligned targets. Far more accurate, twice the work; not what Table 4 of the paper measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from det.backbones import build_backbone
from det.inference import are_raw
from det.sections import ArchSection, NmsSection
from det.transforms import Sample
from ppcls_ext.core import distributed
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.layers import Resize
from ppcls_ext.upstream.paddledet import ppdet, sums_over_processes

_pico_head: Any = ppdet("modeling.heads.pico_head")
_gfl_head = ppdet("modeling.heads.gfl_head")
_gfocal = ppdet("modeling.losses.gfocal_loss")
_iou_loss = ppdet("modeling.losses.iou_loss")
_varifocal = ppdet("modeling.losses.varifocal_loss")
_lc_pan = ppdet("modeling.necks.lc_pan")
_atss = ppdet("modeling.assigners.atss_assigner")
_task_aligned = ppdet("modeling.assigners.task_aligned_assigner")
_assign_utils = ppdet("modeling.assigners.utils")
_bbox_utils = ppdet("modeling.bbox_utils")
_batch_operators = ppdet("data.transform.batch_operators")
_layers = ppdet("modeling.layers")
_ops = ppdet("modeling.ops")

REG_MAX = 7  # a side is at most so many strides from the centre of its cell
GRID_CELL_SCALE = 5  # side of the square that stands for a cell in ATSS, in strides
CELL_OFFSET = 0.5
PRIOR = 0.01  # the score that an untrained network gives to everything
TAL_LEAST_SIDE = 192  # pixels; with less the coarsest map has fewer cells than the 9 that ATSS asks for
# Weights of the losses in the public configs, in the order distribution focal loss, GIoU.
GFL_WEIGHTS, TAL_WEIGHTS = (0.25, 2.0), (0.5, 2.5)
LOSS_NAMES = {"loss_qfl": "qfl_loss", "loss_vfl": "vfl_loss", "loss_bbox": "box_loss", "loss_dfl": "dfl_loss"}


class PAN(nn.Layer):
    """1x1 convolutions to one width, then sums down and up the pyramid, resized bilinearly; no other weights.

    PaddleDetection dropped this neck in October 2021.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.laterals = nn.LayerList(
            nn.Conv2D(c, out_channels, 1, weight_attr=nn.initializer.XavierUniform(fan_out=c)) for c in in_channels
        )
        self.resize = Resize()

    def forward(self, maps: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        """From maps of the backbone to float32 [N, width, H, W] for each of their strides, both finest first."""
        levels = [conv(maps[i]) for i, conv in enumerate(self.laterals)]  # the tracer of export knows no strict zip
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + self._scaled(levels[i], 2.0)
        for i in range(len(levels) - 1):
            levels[i + 1] = levels[i + 1] + self._scaled(levels[i], 0.5)
        return levels

    def _scaled(self, level: paddle.Tensor, factor: float) -> paddle.Tensor:
        if paddle.in_dynamic_mode():
            return self.resize(level, [int(side * factor) for side in level.shape[2:]])
        return functional.interpolate(level, scale_factor=factor, mode="bilinear")  # a traced graph takes any size


class PicoHeadGFL(_pico_head.PicoHead):  # type: ignore[name-defined]
    """PicoHead with the losses of GFL, as it had in September 2021."""

    def get_loss(self, outputs: Any, truth: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
        """The parts of this process's loss, as scalars whose mean over processes is the loss of the whole batch."""
        with sums_over_processes():
            losses: dict[str, paddle.Tensor] = _gfl_head.GFLHead.get_loss(self, outputs, truth)
        # A part of the whole batch's loss; the mean over processes is to be the loss.
        return {name: value * distributed.world() for name, value in losses.items()}


class PicoHeadTAL(_pico_head.PicoHeadV2):  # type: ignore[name-defined]
    """PicoHeadV2 with a loss that is finite where a batch has no positive.

    paddledet 2.6.0 divides by the sum of the assigned qualities, which is 0 then.
    """

    def get_loss(self, outputs: Sequence[Any], truth: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
        """The parts of this process's loss, as scalars whose mean over processes is the loss of the whole batch."""
        scores, sides, boxes, maps = outputs
        anchors, _, per_level, strides = _assign_utils.generate_anchors_for_grid_cell(
            maps, self.fpn_stride, self.grid_cell_scale, self.cell_offset
        )
        centres = _bbox_utils.bbox_center(anchors)
        objects = truth["gt_class"], truth["gt_bbox"], truth["pad_gt_mask"]
        pixels = boxes.detach() * strides
        if truth["epoch_id"].item() < self.static_assigner_epoch:
            labels, targets, quality, _ = self.static_assigner(
                anchors, per_level, *objects, bg_index=self.num_classes, pred_bboxes=pixels
            )
        else:
            labels, targets, quality, _ = self.assigner(
                scores.detach(), pixels, centres, per_level, *objects, bg_index=self.num_classes
            )
        # The divisor sums over all processes, as in GFLHead, and is at least 1, since a batch may have no positive.
        total = distributed.mean(quality.sum()).clip(min=1.0 / distributed.world())
        flat = [-1, self.num_classes]
        losses = {"loss_vfl": self.loss_vfl(scores.reshape(flat), quality.reshape(flat), avg_factor=total)}
        positive = labels.flatten() < self.num_classes
        if not bool(positive.any()):
            nothing = boxes.sum() * 0.0
            return {**losses, "loss_bbox": nothing, "loss_dfl": nothing}
        index = paddle.nonzero(positive).squeeze(1)
        weight = quality.max(axis=-1).flatten()[index].unsqueeze(1)
        target = (targets / strides).reshape([-1, 4])[index]
        centre = (centres / strides).tile([scores.shape[0], 1])[index]
        distances = _bbox_utils.bbox2distance(centre, target, self.reg_max).flatten()
        found = sides.reshape([-1, 4 * (self.reg_max + 1)])[index].reshape([-1, self.reg_max + 1])
        losses["loss_bbox"] = (self.loss_bbox(boxes.reshape([-1, 4])[index], target) * weight).sum() / total
        losses["loss_dfl"] = (
            self.loss_dfl(found, distances, weight=weight.expand([-1, 4]).flatten(), avg_factor=4.0) / total
        )
        return losses


class ActivatedConvNorm(_layers.ConvNormLayer):  # type: ignore[name-defined]
    """ConvNormLayer with an activation after it, of which one kernel can make a step."""

    fused_parts = ("conv", "norm", "act")  # see `ppcls_ext.models.kernels.layers.Fused`
    act: nn.Layer

    def forward(self, inputs: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H', W']."""
        return self.act(self.norm(self.conv(inputs)))


class Features(_pico_head.PicoFeat):  # type: ignore[name-defined]
    """PicoFeat whose activations, H-Swish behind every norm, are parts of the layers before them.

    Raises:
        ValueError: another activation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.act != "hard_swish":
            raise ValueError(f"act must be hard_swish, got {self.act!r}")
        for layer in self.sublayers():
            if type(layer) is _layers.ConvNormLayer:
                layer.__class__ = ActivatedConvNorm
                layer.act = nn.Hardswish()

    def act_func(self, x: paddle.Tensor) -> paddle.Tensor:
        """The values themselves: they are activated already."""
        return x


class PicoDet(nn.Layer):
    """Backbone, neck and head.

    Shapes: input float32 [N, 3, H, W], RGB, normalised, H and W multiples of 32. In eval mode `forward` gives scores
    float32 [N, classes, M] and boxes float32 [N, M, 4], x1 y1 x2 y2 in input pixels. `losses` is for training mode.
    """

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, images: paddle.Tensor) -> Any:
        """What the head gives for float32 [N, 3, H, W]: in training what `losses` needs, else raw scores and boxes."""
        return self.head(self.neck(self.backbone({"image": images})))

    def losses(self, images: paddle.Tensor, truth: Mapping[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """The parts of the loss, as scalars; `truth` is what the recipe's targets name."""
        found = self.head.get_loss(self(images), truth)
        return {LOSS_NAMES[name]: value.reshape([]) for name, value in found.items()}

    def head_names(self) -> set[str]:
        """Names of the parameters that depend on the number of classes."""
        return {name for name in self.state_dict() if name.startswith("head.head_cls")}


def _features(arch: ArchSection, levels: int, use_se: bool) -> nn.Layer:
    return Features(
        feat_in=arch.width,
        feat_out=arch.width,
        num_fpn_stride=levels,
        num_convs=arch.convs,
        norm_type="bn",
        share_cls_reg=True,
        use_se=use_se,
    )


def _gfl(arch: ArchSection, channels: list[int], strides: list[int], classes: int) -> tuple[nn.Layer, nn.Layer]:
    distribution, box = GFL_WEIGHTS
    head = PicoHeadGFL(
        conv_feat=_features(arch, len(strides), use_se=False),
        num_classes=classes,
        fpn_stride=strides,
        prior_prob=PRIOR,
        loss_class=_gfocal.QualityFocalLoss(use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=_gfocal.DistributionFocalLoss(loss_weight=distribution),
        loss_bbox=_iou_loss.GIoULoss(loss_weight=box),
        assigner=None,
        reg_max=REG_MAX,
        feat_in_chan=arch.width,
        cell_offset=CELL_OFFSET,
    )
    return PAN(channels, arch.width), head


def _tal(
    arch: ArchSection, channels: list[int], strides: list[int], classes: int, static_epochs: int
) -> tuple[nn.Layer, nn.Layer]:
    distribution, box = TAL_WEIGHTS
    levels = [*strides, 2 * strides[-1]]
    head = PicoHeadTAL(
        conv_feat=_features(arch, len(levels), use_se=True),
        dgqp_module=None,
        num_classes=classes,
        fpn_stride=levels,
        prior_prob=PRIOR,
        use_align_head=True,
        loss_class=_varifocal.VarifocalLoss(use_sigmoid=False, iou_weighted=True, loss_weight=1.0),
        loss_dfl=_gfocal.DistributionFocalLoss(loss_weight=distribution),
        loss_bbox=_iou_loss.GIoULoss(loss_weight=box),
        static_assigner_epoch=static_epochs,
        static_assigner=_atss.ATSSAssigner(topk=9, num_classes=classes, force_gt_matching=False),
        assigner=_task_aligned.TaskAlignedAssigner(topk=13, alpha=1.0, beta=6.0),
        reg_max=REG_MAX,
        feat_in_chan=arch.width,
        cell_offset=CELL_OFFSET,
        grid_cell_scale=float(GRID_CELL_SCALE),
    )
    # A list of its own: paddledet 2.6.0 appends to the default, and the next network would get a level more.
    scales = [1 / stride for stride in strides]
    return _lc_pan.LCPAN(channels, arch.width, num_features=len(levels), spatial_scales=scales), head


def build_picodet(arch: ArchSection, classes: int, epochs: int, input_size: tuple[int, int]) -> PicoDet:
    """The network of an `Arch` section.

    Args:
        epochs: of the whole run; `tal` spends the first third with fixed targets, if not told otherwise.
        input_size: (height, width).
    Raises:
        UserError: an unknown backbone or key, or an input that the recipe cannot train on.
    """
    backbone, channels, strides = build_backbone(arch.backbone)
    if arch.recipe == "gfl":
        return PicoDet(backbone, *_gfl(arch, channels, strides, classes))
    if min(input_size) < TAL_LEAST_SIDE:
        raise UserError(f"Global.image_shape: recipe tal needs sides of {TAL_LEAST_SIDE} and more, got {input_size}")
    static = epochs // 3 if arch.static_epochs is None else arch.static_epochs
    return PicoDet(backbone, *_tal(arch, channels, strides, classes, static))


class GflTargets:
    """ATSS targets made with the batch: PaddleDetection's `Gt2GFLTarget`, whose arrays `names` lists."""

    names = ("grid_cells", "labels", "label_weights", "bbox_targets", "pos_num")

    def __init__(self, classes: int, strides: Sequence[int]) -> None:
        self.assign = _batch_operators.Gt2GFLTarget(
            classes, list(strides), grid_cell_scale=GRID_CELL_SCALE, cell_offset=CELL_OFFSET
        )

    def __call__(self, images: np.ndarray, samples: Sequence[Sample], epoch: int) -> list[np.ndarray]:
        """The arrays of `names` for a batch, of images float32 [N, 3, H, W]; the same in every epoch."""
        made = self.assign(
            [
                {"image": image, "gt_bbox": sample.boxes, "gt_class": sample.classes}
                for image, sample in zip(images, samples, strict=True)
            ]
        )
        return [np.stack([np.asarray(one[name], _dtype(name)) for one in made]) for name in self.names]


def _dtype(name: str) -> type:
    return np.int64 if name == "labels" else np.float32


class TalTargets:
    """Boxes and classes padded to one count an image, at least one: with none, the assigners of paddledet 2.6.0 fail.

    Classes are int64, without which its TaskAlignedAssigner mixes two integer types, which paddle 3 refuses.
    """

    names = ("gt_bbox", "gt_class", "pad_gt_mask", "epoch_id")

    def __call__(self, images: np.ndarray, samples: Sequence[Sample], epoch: int) -> list[np.ndarray]:
        """The arrays of `names` for a batch, padded to as many boxes as its fullest image has."""
        most = max(1, *(len(sample.boxes) for sample in samples))
        boxes = np.zeros((len(samples), most, 4), np.float32)
        classes = np.zeros((len(samples), most, 1), np.int64)
        mask = np.zeros((len(samples), most, 1), np.float32)
        for index, sample in enumerate(samples):
            count = len(sample.boxes)
            boxes[index, :count] = sample.boxes
            classes[index, :count, 0] = sample.classes
            mask[index, :count] = 1
        return [boxes, classes, mask, np.array([epoch], np.int64)]


class WithNms(nn.Layer):
    """A detector with non-maximum suppression in its graph.

    Shapes: images float32 [N, 3, H, W] to rows float32 [K, 6] (class, score, x1, y1, x2, y2 in input pixels), those
    of the first image first, and the number of rows of each image, int32 [N].
    """

    def __init__(self, detector: nn.Layer, nms: NmsSection) -> None:
        super().__init__()
        self.detector, self.nms = detector, nms

    def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The rows and counts of the boxes that NMS keeps; see the class for shapes."""
        scores, boxes = self.detector(images)
        return self.kept(scores, boxes)

    def kept(self, scores: paddle.Tensor, boxes: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The rows and counts of the boxes that NMS keeps, of scores [N, classes, M] and boxes [N, M, 4]."""
        rows, counts, _ = _ops.multiclass_nms(
            boxes,
            scores,
            self.nms.score_threshold,
            self.nms.nms_top_k,
            self.nms.keep_top_k,
            self.nms.nms_threshold,
        )
        return rows, counts


class ExportedDetector(WithNms):
    """An exported model as a detector with NMS, which follows here for a format that has none in its graph."""

    def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Rows and counts; see `WithNms`."""
        first, second = self.detector(images)
        return self.kept(first, second) if are_raw([first, second]) else (first, second)
