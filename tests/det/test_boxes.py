"""NumPy postprocessing against the operator in the graph, and the comparison that parity uses."""

from __future__ import annotations

import numpy as np
import paddle

from det.boxes import detections, iou, largest_difference, to_image
from ppcls_ext.upstream.paddledet import ppdet


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, sides = rng.uniform(0, 80, (count, 2)), rng.uniform(5, 40, (count, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def best_first(rows: np.ndarray) -> np.ndarray:
    """The operator gives its rows class by class."""
    return rows[np.argsort(-rows[:, 1], kind="stable")]


def test_iou_of_known_boxes() -> None:
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(iou(box, others), [1, 1 / 3, 0], atol=1e-6)


def test_detections_equal_the_operator() -> None:
    rng = np.random.default_rng(0)
    for keep, candidates in ((100, 1000), (7, 1000), (100, 5)):
        boxes, scores = random_boxes(rng, 300), rng.random((4, 300)).astype(np.float32)
        rows, _, counts = paddle._C_ops.multiclass_nms3(
            paddle.to_tensor(boxes[None]),
            paddle.to_tensor(scores[None]),
            None,
            0.4,
            candidates,
            keep,
            0.5,
            True,
            1.0,
            -1,
        )
        ours = detections(scores, boxes, 0.4, 0.5, candidates, keep)
        assert len(ours) == counts.tolist()[0] > 0
        np.testing.assert_allclose(ours, best_first(rows.numpy()), rtol=1e-6)


def test_repaired_nms_of_ppdet_equals_the_operator_in_dygraph() -> None:
    rng = np.random.default_rng(1)
    boxes, scores = random_boxes(rng, 50)[None], rng.random((1, 2, 50)).astype(np.float32)
    nms = ppdet("modeling.ops").multiclass_nms
    rows, counts, _ = nms(paddle.to_tensor(boxes), paddle.to_tensor(scores), 0.3, 100, 20, 0.5)
    np.testing.assert_allclose(detections(scores[0], boxes[0], 0.3, 0.5, 100, 20), best_first(rows.numpy()), rtol=1e-6)
    assert counts.tolist() == [len(rows)]


def test_nothing_found_is_an_empty_set() -> None:
    assert detections(np.zeros((3, 10), np.float32), np.zeros((10, 4), np.float32)).shape == (0, 6)


def test_boxes_are_scaled_and_cut_at_the_border() -> None:
    rows = np.array([[0, 0.9, -4, 10, 330, 20]], np.float32)
    np.testing.assert_allclose(to_image(rows, (320, 320), (640, 160))[0, 2:], [0, 5, 640, 10])


def test_difference_ignores_order_and_what_is_at_the_threshold() -> None:
    rows = np.array([[0, 0.9, 0, 0, 10, 10], [1, 0.8, 5, 5, 20, 20]], np.float32)
    assert largest_difference(rows, rows[::-1], 100, 0.025, 100) == 0
    extra = np.vstack([rows, [0, 0.02501, 50, 50, 60, 60]]).astype(np.float32)
    assert largest_difference(extra, rows, 100, 0.025, 100) < 1e-4
    assert largest_difference(rows, extra, 100, 0.025, 100) < 1e-4


def test_difference_sees_moved_boxes_other_classes_and_missing_ones() -> None:
    rows = np.array([[0, 0.9, 0, 0, 10, 10], [1, 0.8, 5, 5, 20, 20]], np.float32)
    moved = rows.copy()
    moved[0, 2] += 1
    assert abs(largest_difference(moved, rows, 100, 0.025, 100) - 0.01) < 1e-6
    other = rows.copy()
    other[0, 0] = 2
    assert largest_difference(other, rows, 100, 0.025, 100) > 0.5
    assert largest_difference(rows[:1], rows, 100, 0.025, 100) > 0.5
