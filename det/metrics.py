"""COCO's average precision by pycocotools, and the files that show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from det.splits import CocoSplit
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.tasks.eval_report import write_metrics
from ppcls_ext.upstream.pycocotools import quiet_pycocotools

# The metrics, each with its place in `stats` of pycocotools's COCOeval.
STATS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}
METRICS = tuple(STATS)
OF_SIZES = ("APs", "APm", "APl")  # are left out where no object has the size
PER_CLASS_COLUMNS = ("class", "objects", "AP", "AP50", "AR50")


class CocoResult:
    """Average precision over a split.

    Attributes:
        per_class: rows of `PER_CLASS_COLUMNS`; AR50 is the share of objects that are found at an IoU of 0.5, among
            the best 100 boxes of an image. A class without objects has none of them (nan).
        detections: in COCO's form of results, with the ids of the json.
    """

    def __init__(self, split: CocoSplit, rows: Sequence[np.ndarray]) -> None:
        """Evaluate.

        Args:
            rows: for each record of the split, float [K, 6]: class, score, x1, y1, x2, y2 in pixels of the image.
        """
        from pycocotools.cocoeval import COCOeval

        self.split = split
        truth = _coco(split, [])
        # Ids of our own: in the json they may be text, absent, or 0, which pycocotools takes for "not matched".
        found = _coco(split, rows)
        with quiet_pycocotools():
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self._stats = evaluation.stats
        self.per_class = self._per_class(evaluation.eval["precision"], evaluation.eval["recall"])
        self.detections = [
            item for record, own in zip(split.records, rows, strict=True) for item in self._items(record, own)
        ]

    def metrics(self) -> dict[str, float]:
        """AP (mean over IoU 0.5:0.95), AP50, AP75, and AP of small, medium and large objects (area below 32^2, 96^2,
        above). A size that no object has is left out.
        """
        values = {name: float(self._stats[place]) for name, place in STATS.items()}
        return {name: value for name, value in values.items() if value >= 0 or name not in OF_SIZES}

    def _per_class(self, precision: np.ndarray, recall: np.ndarray) -> list[tuple[str, int, float, float, float]]:
        """The table of the classes.

        Args:
            precision: pycocotools's [IoU, recall, class, size, detections an image].
            recall: pycocotools's [IoU, class, size, detections an image].

        The first IoU is 0.5; -1 stands for no object.
        """
        objects = np.zeros(len(self.split.class_names), int)
        for record in self.split.records:
            for number, _, _, crowd in record.truth:
                objects[number] += not crowd
        table = []
        for number, name in enumerate(self.split.class_names):
            own = precision[:, :, number, 0, -1]
            parts = (own, own[0], recall[0, number, 0, -1])
            means = [float(part[part > -1].mean()) if (part > -1).any() else float("nan") for part in parts]
            table.append((name, int(objects[number]), means[0], means[1], means[2]))
        return table

    def _items(self, record: Any, rows: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "image_id": record.image_id,
                "category_id": self.split.category_ids[int(row[0])],
                "bbox": [round(float(v), 3) for v in (row[2], row[3], row[4] - row[2], row[5] - row[3])],
                "score": round(float(row[1]), 6),
            }
            for row in rows
            if self.split.category_ids[int(row[0])] is not None
        ]

    def write(self, folder: Path) -> None:
        """Write metrics.json, per_class.csv and detections.json (COCO's form of results)."""
        write_metrics(folder, len(self.split.records), self.metrics(), PER_CLASS_COLUMNS, self.per_class)
        atomic_write_text(folder / "detections.json", json.dumps(self.detections) + "\n")


def _coco(split: CocoSplit, rows: Sequence[np.ndarray]) -> Any:
    """A pycocotools data set of the truth, or of detections where there are `rows`."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for index, record in enumerate(split.records):
        if rows:
            objects = [
                (int(r[0]), (r[2], r[3], r[4] - r[2], r[5] - r[3]), float((r[4] - r[2]) * (r[5] - r[3])), False, r[1])
                for r in rows[index]
            ]
        else:
            objects = [(*item, 1.0) for item in record.truth]
        for number, box, area, crowd, score in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": number,
                    "bbox": [float(v) for v in box],
                    "area": area,
                    "iscrowd": int(crowd),
                    "score": float(score),
                }
            )
    with quiet_pycocotools():
        coco = COCO()
        coco.dataset = {
            "images": [{"id": p, "width": r.size[0], "height": r.size[1]} for p, r in enumerate(split.records)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(split.class_names)],
            "annotations": annotations,
        }
        coco.createIndex()
    return coco
