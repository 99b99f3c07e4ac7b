"""Pictures that commands leave: captions on images, contact sheets, training curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write
from ppcls_ext.core.text import one_line

MARGIN = 3  # around a picture in a sheet, pixels
LONGEST_CAPTION = 200  # characters
CAPTION_WIDTH = 128  # least width of a picture with a caption, in pixels


LONGEST_JPEG = 65500  # pixels of a side, which libjpeg bounds
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # of pictures, by the ending of their names


def require_pillow() -> None:
    """Raise UserError where Pillow is not installed: what runs in production does without it, pictures do not."""
    if importlib.util.find_spec("PIL") is None:
        raise UserError("pictures are drawn with Pillow, which is not installed; python -m pip install 'pplcnet[draw]'")


def picture_format(path: Path) -> str:
    """What Pillow calls the format of a picture, by the path's ending. Raises UserError for an ending of another."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"picture {path}: give a name that ends with {', '.join(FORMATS)}")
    return kind


def save_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] as PNG or JPEG, as the path ends.

    Raises:
        UserError: another ending; too large for JPEG; Pillow is not installed.
    """
    kind = picture_format(path)
    if kind == "JPEG" and max(image.shape[:2]) > LONGEST_JPEG:
        raise UserError(f"picture {path}: a JPEG has at most {LONGEST_JPEG} pixels a side; write a .png")
    require_pillow()
    from PIL import Image  # here and below where it is used: what runs in production does without it

    atomic_write(path, lambda temporary: Image.fromarray(image).save(temporary, format=kind))


def caption(image: np.ndarray, text: str, size: int = 14) -> np.ndarray:
    """The image with a line of text above it; small images are enlarged so that the text fits. Needs Pillow."""
    require_pillow()
    from PIL import Image, ImageDraw, ImageFont

    factor = -(-CAPTION_WIDTH // image.shape[1])
    if factor > 1:
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height = size + 8
    canvas = Image.new("RGB", (image.shape[1], image.shape[0] + height), "white")
    canvas.paste(Image.fromarray(image), (0, height))
    ImageDraw.Draw(canvas).text(
        (4, 3), one_line(text, LONGEST_CAPTION), fill="black", font=ImageFont.load_default(size)
    )
    return np.asarray(canvas)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 6, cell: int = 150) -> np.ndarray:
    """Images side by side, each fitted into a square cell."""
    rows = -(-len(images) // columns)
    sheet = np.full((rows * cell, columns * cell, 3), 255, np.uint8)
    for index, image in enumerate(images):
        scale = (cell - 2 * MARGIN) / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top, left = index // columns * cell + MARGIN, index % columns * cell + MARGIN
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def draw_curves(path: Path, events: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Draw the training loss and an evaluation metric over steps, from the events of a run's log."""
    from matplotlib.figure import Figure

    train = list({e["epoch"]: e for e in events if e["event"] == "train"}.values())  # the last of each epoch
    evals = [e for e in events if e["event"] == "eval"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([e["step"] for e in train], [e["loss"] for e in train], marker=".")
    left.set(xlabel="step", ylabel="training loss (mean of the epoch)", ylim=(0, None))
    right.plot([e["step"] for e in evals], [e[metric] for e in evals], marker=".")
    right.set(xlabel="step", ylabel=f"{metric} on the evaluation split", ylim=(None, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
