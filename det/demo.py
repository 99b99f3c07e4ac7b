"""`make demo-det`: PicoDet trained, evaluated, exported and run with oneDNN on generated scenes, without a download.

Scenes are scikit-learn's handwritten digits, pasted at several sizes and in several colours on textured canvases. It
starts from the trunk that `make demo` trained on such digits, where that is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.pictures import save_image
from ppcls_ext.demo.scenes import SEEDS, canvas, run_scene_demo
from ppcls_ext.demo.steps import TRUNK

ROOT = Path("output") / "demo-det"
SIDE = 160  # pixels; scenes are square
SCENES = {"train": 400, "val": 80}
DIGITS = (1, 5)  # the fewest and the most digits in a scene
DIGIT_SIDES = (24, 64)  # pixels
GOAL = 0.5  # the AP50 that the demo promises to exceed


def make_scene(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, side: int
) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """A scene, uint8 RGB [side, side, 3], and its digits: label and box x, y, width, height of the ink."""
    scene = canvas(rng, side)
    scene += rng.normal(0, 6, scene.shape)
    taken = np.zeros((side, side), bool)
    objects = []
    for _ in range(rng.integers(DIGITS[0], DIGITS[1] + 1)):
        size = int(rng.integers(DIGIT_SIDES[0], min(DIGIT_SIDES[1], side // 2) + 1))
        x, y = (int(v) for v in rng.integers(0, side - size, 2))
        if taken[y : y + size, x : x + size].any():
            continue
        taken[y : y + size, x : x + size] = True
        number = int(rng.integers(len(images)))
        ink = cv2.resize(images[number].astype(np.float32) / 16, (size, size), interpolation=cv2.INTER_LINEAR)
        colour = rng.integers(0, 70, 3)
        part = scene[y : y + size, x : x + size]
        part[:] = part * (1 - ink[:, :, None]) + colour * ink[:, :, None]
        left, top, width, height = cv2.boundingRect((ink > 0.2).astype(np.uint8))
        objects.append((int(labels[number]), [float(v) for v in (x + left, y + top, width, height)]))
    return np.clip(scene, 0, 255).astype(np.uint8), objects


def make_scenes(folder: Path, split: str, count: int, side: int = SIDE) -> None:
    """Write `images/<split>/` and `annotations/instances_<split>.json`; the two splits share no digit."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.arange(len(digits.target)) % 5 == 0
    mine = held_out if split == "val" else ~held_out
    rng = np.random.default_rng(SEEDS[split])
    content: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": digit, "name": str(digit)} for digit in range(10)],
    }
    for number in range(1, count + 1):
        scene, objects = make_scene(rng, digits.images[mine], digits.target[mine], side)
        file = f"{number:04d}.png"
        save_image(folder / "images" / split / file, scene)
        content["images"].append({"id": number, "file_name": file, "width": side, "height": side})
        for label, box in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    atomic_write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(content))


def main() -> int:
    """Run the demo; gives the exit status."""
    return run_scene_demo(ROOT, "detection", "det/demo", make_scenes, SCENES, "AP50", GOAL, "--draw boxes", TRUNK)


if __name__ == "__main__":
    sys.exit(main())
