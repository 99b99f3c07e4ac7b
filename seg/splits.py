"""Which images and masks belong to a split: list files, folders matched by file name, Cityscapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import ENDINGS
from ppcls_ext.data.lists import class_file_beside, held_out, joining, read_class_names, read_lines
from seg import cityscapes

MASK_END = "_mask"  # a mask may be called like its image, or with this after the name


@dataclass(frozen=True)
class PairList:
    """Images of one split with their masks.

    Attributes:
        images, masks: paths, in the same order.
        source: the list file or folder, for messages.
        class_names: where the data name their classes.
        values: value in the mask files -> class, where the data fix it.
        lines: of each pair in the list file, for messages; empty for folders.
    """

    images: Sequence[str]
    masks: Sequence[str]
    source: str
    class_names: tuple[str, ...] | None = None
    values: Mapping[int, int] = field(default_factory=dict)
    lines: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.images)

    def missing(self) -> list[str]:
        """A line for every file of the list that is not there."""
        found = []
        for index, (image, mask) in enumerate(zip(self.images, self.masks, strict=True)):
            where = f"{self.source}, line {self.lines[index]}: " if self.lines else ""
            for kind, path in (("image", image), ("mask", mask)):
                if not Path(path).is_file():
                    found.append(f"{where}{kind} {path}: no such file; fix the path or remove the line")
        return found


def read_pairs(list_path: Path, root: Path, delimiter: str | None = None) -> PairList:
    """Read lines `image mask`; paths are relative to `root`. Class names come from classes.txt beside the list.

    Args:
        delimiter: between the two; None is a tab where the line has one, else white space.
    Raises:
        UserError: no such file, a line that is not `image mask` (with its number), or no line at all.
    """
    join = joining(root)
    images, masks, lines = [], [], []
    for number, line in enumerate(read_lines(list_path, "mask list"), start=1):
        if not line.strip():
            continue
        parts = line.strip().split(delimiter or ("\t" if "\t" in line else None))
        if len(parts) != 2:
            raise UserError(
                f"mask list {list_path}, line {number}: expected 'image mask', got '{line.strip()}' "
                "(names with spaces need a tab between the two)"
            )
        images.append(join(parts[0].strip()))
        masks.append(join(parts[1].strip()))
        lines.append(number)
    if not images:
        raise UserError(f"mask list {list_path}: no lines, the split is empty")
    return PairList(images, masks, f"mask list {list_path}", _names_beside(list_path), lines=lines)


def _names_beside(path: Path) -> tuple[str, ...] | None:
    file = class_file_beside(path)
    return None if file is None else read_class_names(file)


def match_folders(images: Path, masks: Path, names_beside: Path) -> PairList:
    """Pair the images below a folder with the masks of the same name (any ending, or NAME_mask) below another.

    Raises:
        UserError: a folder that is not there or empty, an image without a mask, or a mask without an image.
    """
    for folder, kind in ((images, "image"), (masks, "mask")):
        if not folder.is_dir():
            raise UserError(f"{kind} folder {folder}: no such folder")
    image_of, mask_of = _by_stem(images, "image"), _by_stem(masks, "mask")
    mask_of = {_image_stem(stem, image_of): path for stem, path in mask_of.items()}
    alone = [f"image {image_of[s]}: it has no mask below {masks}" for s in image_of if s not in mask_of]
    alone += [f"mask {mask_of[s]}: it has no image below {images}" for s in mask_of if s not in image_of]
    if alone:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise UserError(f"{alone[0]}{more}; an image and its mask have the same name")
    stems = sorted(image_of)
    return PairList(
        [str(image_of[s]) for s in stems],
        [str(mask_of[s]) for s in stems],
        f"image folder {images}",
        _names_beside(names_beside / "images"),
    )


def _by_stem(folder: Path, kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (*ENDINGS, ".gif") and p.is_file()):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{kind} {path}: {found[stem]} has the same name; keep one of them")
        found[stem] = path
    if not found:
        raise UserError(f"{kind} folder {folder}: no {kind}s ({', '.join(ENDINGS)}), the split is empty")
    return found


def _image_stem(mask_stem: str, images: Mapping[str, Path]) -> str:
    shorter = mask_stem.removesuffix(MASK_END)
    return mask_stem if mask_stem in images or shorter not in images else shorter


def find_pairs(root: Path, split: str, val_fraction: float, delimiter: str | None = None) -> PairList:
    """The pairs of `split` ('train' or 'val') in someone's own folder.

    Looked for, in this order: `<split>_list.txt` or `<split>.txt`; `images/<split>/` and `masks/<split>/`;
    `<split>/images/` and `<split>/masks/`; `images/` and `masks/` without splits, of which `val_fraction` are held
    out for 'val' by the hash of their names. Class names come from classes.txt in `root`.
    Raises:
        UserError: none of these is there, or what `read_pairs` and `match_folders` raise.
    """
    for list_path in (root / f"{split}_list.txt", root / f"{split}.txt"):
        if list_path.is_file():
            return read_pairs(list_path, root, delimiter)
    for images, masks in (
        (root / "images" / split, root / "masks" / split),
        (root / split / "images", root / split / "masks"),
    ):
        if images.is_dir():
            return match_folders(images, masks, root)
    is_split = any(
        (root / p).exists() for s in ("train", "val") for p in (f"images/{s}", s, f"{s}.txt", f"{s}_list.txt")
    )
    if is_split or not (root / "images").is_dir():
        raise UserError(
            f"Global.data_root {root}: no {split} split in it; it needs {split}.txt with lines 'image mask', "
            f"or folders images/{split} and masks/{split}, or images and masks"
        )
    pairs = match_folders(root / "images", root / "masks", root)
    mine = held_out(pairs.images, root / "images", val_fraction, split)
    return replace(pairs, images=[pairs.images[k] for k in mine], masks=[pairs.masks[k] for k in mine])


def find_cityscapes(root: Path, split: str) -> PairList:
    """Pairs of `leftImg8bit/<split>/CITY/*_leftImg8bit.png` and gtFine: labelTrainIds, else labelIds translated.

    Raises:
        UserError: no such folder, no images, or an image without its label file.
    """
    folder = root / "leftImg8bit" / split
    images = sorted(folder.glob(f"*/*{cityscapes.IMAGE_END}"))
    if not images:
        raise UserError(f"Cityscapes folder {folder}: no CITY/*{cityscapes.IMAGE_END} in it; set Global.data_root")
    masks = [_label_stem(root, split, image) for image in images]
    for ending, values in ((cityscapes.TRAIN_IDS_END, {}), (cityscapes.LABEL_IDS_END, cityscapes.TRAIN_ID_OF)):
        files = [f"{mask}{ending}" for mask in masks]
        there = [Path(file).is_file() for file in files]
        if all(there):
            names = [str(image) for image in images]
            return PairList(names, files, f"Cityscapes folder {folder}", cityscapes.NAMES, values)
        if any(there):
            index = there.index(False)
            more = there.count(False) - 1
            others = f" (and {more} more)" if more else ""
            raise UserError(f"mask {files[index]}: no such file{others}, but {images[index]} is there")
    raise UserError(f"mask {masks[0]}{cityscapes.TRAIN_IDS_END}: no such file, nor {cityscapes.LABEL_IDS_END}")


def _label_stem(root: Path, split: str, image: Path) -> str:
    return str(root / "gtFine" / split / image.parent.name / image.name.removesuffix(cityscapes.IMAGE_END))
