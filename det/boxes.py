"""From the network's raw scores and boxes to detections, in NumPy; the same rule as the operator in the graph."""

from __future__ import annotations

import numpy as np


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box [4] with boxes [n, 4] (x1 y1 x2 y2), float [n]."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    inside = np.clip(sides, 0, None).prod(axis=1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    own = np.clip(box[2:] - box[:2], 0, None).prod()
    return inside / np.maximum(areas + own - inside, 1e-12)


def detections(
    scores: np.ndarray,
    boxes: np.ndarray,
    score_threshold: float = 0.025,
    nms_threshold: float = 0.6,
    nms_top_k: int = 1000,
    keep_top_k: int = 100,
) -> np.ndarray:
    """Non-maximum suppression within each class, then the best of all classes.

    Args:
        scores: float [classes, M].
        boxes: float [M, 4], x1 y1 x2 y2. (IoU does not change if x or y are scaled, so any units do.)
        score_threshold: a box must score more.
        nms_threshold: a box goes if its IoU with a better one of its class is more.
        nms_top_k: candidates of each class, the best ones.
        keep_top_k: boxes in the end.
    Returns:
        float32 [K, 6]: class, score, x1, y1, x2, y2; best first.
    """
    candidates = []  # indices into M for each class, best first
    for row in scores:
        above = np.flatnonzero(row > score_threshold)
        candidates.append(above[np.argsort(-row[above], kind="stable")[:nms_top_k]])
    classes = np.repeat(np.arange(len(scores)), [len(c) for c in candidates])
    index = np.concatenate([np.zeros(0, np.int64), *candidates])
    found_scores, found_boxes = scores[classes, index], boxes[index]
    starts = np.searchsorted(classes, np.arange(len(scores) + 1))

    # Best first over all classes, a suppressed box is passed over: stopping at keep_top_k changes nothing.
    alive = np.ones(len(index), bool)
    kept: list[int] = []
    for best in np.argsort(-found_scores, kind="stable"):
        if not alive[best]:
            continue
        kept.append(int(best))
        if len(kept) == keep_top_k:
            break
        own = slice(starts[classes[best]], starts[classes[best] + 1])
        alive[own] &= iou(found_boxes[best], found_boxes[own]) <= nms_threshold
    rows = np.column_stack([classes[kept], found_scores[kept], found_boxes[kept]])
    return rows.astype(np.float32).reshape(-1, 6)


def to_image(rows: np.ndarray, input_size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """Rows of `detections` from pixels of the input (width, height) to those of the image, cut off at its border."""
    scale = np.array(image_size, np.float32) / np.array(input_size, np.float32)
    moved = rows.copy()
    moved[:, 2:] = np.clip(rows[:, 2:] * np.tile(scale, 2), 0, np.tile(np.array(image_size, np.float32), 2))
    return moved


def largest_difference(ours: np.ndarray, theirs: np.ndarray, side: float, threshold: float, keep: int) -> float:
    """How far two sets of detections [K, 6] of one image are apart, whatever their order.

    Each detection is paired with the nearest of its class. The result is the largest difference of a score, or of
    a corner in units of the input's `side`. A detection without a partner counts by how far its score is above
    the cut: `threshold`, or in a full set of `keep` its lowest score. Right at the cut either outcome is right.
    """
    cut = max([threshold, *(float(rows[:, 1].min()) for rows in (ours, theirs) if len(rows) == keep)])
    free = np.ones(len(theirs), bool)
    worst = 0.0
    for row in ours:
        apart = np.maximum(np.abs(theirs[:, 1] - row[1]), np.abs(theirs[:, 2:] - row[2:]).max(axis=1) / side)
        apart = np.where(free & (theirs[:, 0] == row[0]), apart, np.inf)
        alone = float(row[1]) - cut
        if len(apart) and apart.min() < alone:
            free[apart.argmin()] = False
            worst = max(worst, float(apart.min()))
        else:
            worst = max(worst, alone)
    return max([worst, *(float(row[1]) - cut for row in theirs[free])])
