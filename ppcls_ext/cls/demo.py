"""`make demo`: PP-LCNet trained, evaluated, exported and run with oneDNN on real images, in minutes, no download."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.demo.steps import ROOT, run_demo

SHOWN = 24  # predictions in the picture
HELD_OUT = 5  # every fifth digit is for evaluation


def make_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as PNG files, `train/<digit>/` and `val/<digit>/`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "val" if number % HELD_OUT == 0 else "train"
        file = folder / split / str(label) / f"{number:04d}.png"
        grey = np.uint8(255 - image * 255 / 16)  # 16 grey levels, dark ink on white
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_CUBIC)).save(file)


def some_digits(data: Path) -> list[str]:
    """Paths of digits of the evaluation split, spread over the classes."""
    files = sorted(str(f) for f in (data / "val").rglob("*.png"))
    return [files[i] for i in np.linspace(0, len(files) - 1, SHOWN).astype(int)]


def main() -> int:
    """Run the demo; gives the exit status."""
    return run_demo(ROOT, "classification", "demo", make_digits, some_digits, "top1", 0.95, "{data}/val/7 --topk 3")


if __name__ == "__main__":
    sys.exit(main())
