"""`make demo-seg`: DeepLabV3+ trained, evaluated, exported and run with oneDNN on generated scenes, without a download.

Scenes are discs, rings, squares and triangles of several sizes on textured canvases; each kind has shades of a hue of
its own, so that minutes of training suffice. It starts from scratch.
"""

from __future__ import annotations

import colorsys
import sys
from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.pictures import save_image
from ppcls_ext.demo.scenes import SEEDS, canvas, run_scene_demo
from seg.colours import palette, save_labels

ROOT = Path("output") / "demo-seg"
SIDE = 128  # pixels; scenes are square
SCENES = {"train": 240, "val": 60}
CLASSES = ("background", "disc", "ring", "square", "triangle")
SHAPES = (2, 6)  # the fewest and the most shapes in a scene
RADII = (12, 26)  # pixels
GOAL = 0.7  # the mIoU that the demo promises to exceed


def draw_shape(mask: np.ndarray, kind: int, centre: tuple[int, int], radius: int, angle: float) -> None:
    """Write class `kind` into a mask, uint8 [H, W]."""
    if kind in (1, 2):
        # A ring leaves what was there before in its middle.
        cv2.circle(mask, centre, radius if kind == 1 else radius * 3 // 4, kind, -1 if kind == 1 else radius // 2)
        return
    corners = 4 if kind == 3 else 3
    turns = angle + np.arange(corners) * 2 * np.pi / corners
    points = np.array(centre) + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], kind)


def shade(kind: int, rng: np.random.Generator) -> np.ndarray:
    """A dark RGB colour within 12 degrees of the kind's hue: a short training has to tell the kinds apart."""
    hue = kind / (len(CLASSES) - 1) + rng.uniform(-1, 1) / 30
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.8, 1), rng.uniform(0.35, 0.5)))


def make_scene(rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A scene, uint8 RGB [side, side, 3], and its mask, uint8 [side, side]; shapes are darker than any canvas."""
    scene = canvas(rng, side)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(rng.integers(SHAPES[0], SHAPES[1] + 1)):
        kind, radius = int(rng.integers(1, len(CLASSES))), int(rng.integers(RADII[0], RADII[1] + 1))
        x, y = (int(v) for v in rng.integers(radius, side - radius, 2))
        around = mask[max(y - radius, 0) : y + radius, max(x - radius, 0) : x + radius]
        if around.any():  # shapes do not overlap
            continue
        shape = np.zeros_like(mask)
        draw_shape(shape, kind, (x, y), radius, float(rng.uniform(0, 2 * np.pi)))
        mask[shape > 0] = kind
        scene[shape > 0] = shade(kind, rng)
    scene += rng.normal(0, 6, scene.shape)
    return np.clip(scene, 0, 255).astype(np.uint8), mask


def make_scenes(folder: Path, split: str, count: int, side: int = SIDE) -> None:
    """Write `images/<split>/`, `masks/<split>/` and `classes.txt`."""
    rng = np.random.default_rng(SEEDS[split])
    atomic_write_text(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    for number in range(1, count + 1):
        scene, mask = make_scene(rng, side)
        file = f"{number:04d}.png"
        save_image(folder / "images" / split / file, scene)
        save_labels(folder / "masks" / split / file, mask, palette(len(CLASSES)))


def main() -> int:
    """Run the demo; gives the exit status."""
    # The network starts from scratch, since a trunk that has learned digits learns these shapes far more slowly.
    return run_scene_demo(ROOT, "segmentation", "seg/demo", make_scenes, SCENES, "mIoU", GOAL, "--draw masks")


if __name__ == "__main__":
    sys.exit(main())
