"""Masks as people have them: what is read, what is refused, and in which words."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.loader import SampleKey
from ppcls_ext.tasks.check_data import check_data
from seg.cityscapes import NAMES
from seg.dataset import SegmentationDataset
from seg.masks import Rules, count_classes, read_mask, read_pair
from seg.sections import IGNORE, AugmentSection, NormalizeSection
from seg.splits import PairList, find_cityscapes, find_pairs, read_pairs
from seg.task import Segmentation
from seg.transforms import crop_and_flip


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)


def mask(height: int = 20, width: int = 30) -> np.ndarray:
    values = np.zeros((height, width), np.uint8)
    values[5:12, 6:20] = 1
    values[0, :4] = 255
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four training and two validation pairs, as folders."""
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            image = np.roll(picture(), number + 10 * (split == "val"), axis=1)
            save(tmp_path / "images" / split / f"{number}.jpg", image)
            save(tmp_path / "masks" / split / f"{number}.png", mask())
    return tmp_path


def config(root: Path, *overrides: str) -> Config:
    return load_config("seg/my_masks", [f"Global.data_root={root}", *overrides])


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1", "RGB"])
def test_masks_of_every_kind_are_read_alike(mode: str, tmp_path: Path) -> None:
    values = np.where(mask() == 1, 1, 0).astype(np.uint8)
    if mode == "I;16":
        path = save(tmp_path / "m.png", values.astype(np.uint16))
    elif mode == "1":
        path = save(tmp_path / "m.png", values.astype(bool))
    elif mode == "RGB":
        path = save(tmp_path / "m.png", np.stack([values] * 3, axis=2))
    else:
        path = save(tmp_path / "m.png", values, mode)
    assert np.array_equal(read_mask(path, Rules(2)), values)


def test_values_are_translated_and_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 128, 255], [7, 0, 128]], np.uint8))
    rules = Rules(2, ignore_index=7, values={0: 0, 128: 1, 255: 1})
    assert read_mask(path, rules).tolist() == [[0, 1, 1], [IGNORE, 0, 1]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4), 9, np.uint8), r"m.png: no class has the value 9; classes are 0 to 1"),
        (np.array([[300, 0]], np.uint16), r"m.png: no class has the value 300"),
        (picture(), r"m.png: it is RGB; a mask has one class number a pixel"),
    ],
)
def test_wrong_masks_are_named(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_mask(save(tmp_path / "m.png", array), Rules(2))


def test_translations_to_no_class_are_refused(folder: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 9]], np.uint8))
    with pytest.raises(UserError, match=r"value 9; Masks.values makes 9 class 5, but classes are 0 to 1"):
        read_mask(path, Rules(2, values={0: 0, 9: 5}))
    with pytest.raises(UserError, match=r"Masks.values.*255"):
        Segmentation(config(folder, "Masks.values={0: 256}"))


def test_broken_and_missing_masks_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(UserError, match=r"mask .*m.png: cannot be decoded"):
        read_mask(tmp_path / "m.png", Rules(2))
    with pytest.raises(UserError, match=r"mask .*gone.png: no such file"):
        read_mask(tmp_path / "gone.png", Rules(2))


def test_sizes_must_agree_also_after_exif(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", picture())
    small = save(tmp_path / "m.png", mask(10, 30))
    with pytest.raises(UserError, match=r"m.png: it is 30x10, but image .*a.png is 30x20; a mask has the size"):
        read_pair(str(image), str(small), Rules(2))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "t.jpg", picture(), exif=exif)
    with pytest.raises(UserError, match=r"EXIF orientation 6; turn the mask too"):
        read_pair(str(turned), str(save(tmp_path / "n.png", mask())), Rules(2))
    upright = save(tmp_path / "u.png", np.ascontiguousarray(mask().T))
    assert read_pair(str(turned), str(upright), Rules(2))[0].shape == (30, 20, 3)


def test_lists_say_the_line(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a.png m.png\n\nwith space.png\tmask one.png\n")
    pairs = read_pairs(path, tmp_path)
    assert [Path(p).name for p in pairs.images] == ["a.png", "with space.png"]
    assert pairs.lines == [1, 3]
    assert "line 3: mask" in pairs.missing()[-1]
    path.write_text("a.png m.png\na.png m.png extra\n")
    with pytest.raises(UserError, match=r"line 2: expected 'image mask'"):
        read_pairs(path, tmp_path)


def test_folders_are_matched_by_name(folder: Path) -> None:
    assert len(find_pairs(folder, "train", 0.2)) == 4
    (folder / "masks/train/3.png").rename(folder / "masks/train/3_mask.png")
    assert len(find_pairs(folder, "train", 0.2)) == 4
    (folder / "masks/train/2.png").unlink()
    with pytest.raises(UserError, match=r"image .*2.jpg: it has no mask"):
        find_pairs(folder, "train", 0.2)
    (folder / "images/train/2.jpg").unlink()
    (folder / "images/train/1.jpg").unlink()
    with pytest.raises(UserError, match=r"mask .*1.png: it has no image"):
        find_pairs(folder, "train", 0.2)


def test_unsplit_folders_are_split_once_for_all(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"images/{number}.png", picture())
        save(tmp_path / f"masks/{number}.png", mask())
    train, val = (set(find_pairs(tmp_path, split, 0.3).images) for split in ("train", "val"))
    assert not train & val
    assert len(train | val) == 30
    (tmp_path / "images/0.png").unlink()
    (tmp_path / "masks/0.png").unlink()
    assert set(find_pairs(tmp_path, "val", 0.3).images) == {p for p in val if Path(p).name != "0.png"}


def test_cityscapes_reads_either_kind_of_labels(tmp_path: Path) -> None:
    for city, frame in (("aa", 0), ("bb", 1)):
        stem = f"{city}_{frame:06d}_000019"
        save(tmp_path / f"leftImg8bit/train/{city}/{stem}_leftImg8bit.png", picture())
        save(
            tmp_path / f"gtFine/train/{city}/{stem}_gtFine_labelIds.png", np.where(mask() == 1, 26, 7).astype(np.uint8)
        )
    pairs = find_cityscapes(tmp_path, "train")
    assert pairs.class_names == NAMES
    classes = read_mask(pairs.masks[0], Rules(19, values=pairs.values))
    assert set(np.unique(classes)) == {NAMES.index("road"), NAMES.index("car")}
    Path(pairs.masks[1]).unlink()
    with pytest.raises(UserError, match=r"mask .*bb_000001.*no such file, but .*leftImg8bit.png is there"):
        find_cityscapes(tmp_path, "train")


def pairs_of(tmp_path: Path, *values: np.ndarray) -> PairList:
    masks = [str(save(tmp_path / f"m{i}.png", v.astype(np.uint8))) for i, v in enumerate(values)]
    images = [str(save(tmp_path / f"i{i}.png", picture(*v.shape))) for i, v in enumerate(values)]
    return PairList(images, masks, "set")


def test_the_number_of_classes_is_found(tmp_path: Path) -> None:
    assert count_classes(pairs_of(tmp_path, mask(), mask() * 0 + 2), Rules(None)) == 3
    with pytest.raises(UserError, match=r"only class 0 and the ignored value 255; if 255 is an object"):
        count_classes(pairs_of(tmp_path, np.where(mask() == 1, 255, 0)), Rules(None))
    with pytest.raises(UserError, match=r"values 0, 128.*Masks.values=\{0: 0, 128: 1\}"):
        count_classes(pairs_of(tmp_path, np.where(mask() == 1, 128, 0)), Rules(None))


def test_identity_crop_keeps_every_pixel() -> None:
    image, values = picture(), mask()
    still = AugmentSection(scale=(1.0, 1.0, 1.0), flip=0.0)
    rng = np.random.default_rng(0)
    same, same_mask = crop_and_flip(image, values, (20, 30), still, (1, 2, 3), rng)
    assert np.array_equal(same, image)
    assert np.array_equal(same_mask, values)
    padded, padded_mask = crop_and_flip(image, values, (32, 40), still, (1, 2, 3), rng)
    assert np.array_equal(padded[:20, :30], image)
    assert (padded[20:] == (1, 2, 3)).all()
    assert (padded_mask[:, 30:] == IGNORE).all()
    both = AugmentSection(scale=(1.0, 1.0, 1.0), flip=1.0, vertical_flip=1.0)
    turned, turned_mask = crop_and_flip(image, values, (20, 30), both, (1, 2, 3), rng)
    assert np.array_equal(turned, image[::-1, ::-1])
    assert np.array_equal(turned_mask, values[::-1, ::-1])


@pytest.mark.parametrize("factor", [0.5, 1.75, 2.0])
def test_image_and_mask_stay_together_at_every_scale(factor: float) -> None:
    values = np.kron(np.random.default_rng(3).integers(0, 2, (6, 8)), np.ones((16, 16))).astype(np.uint8)
    image = np.stack([values * 200] * 3, axis=2)
    augment = AugmentSection(scale=(factor, factor, 1.0), flip=0.5)
    crop, classes = crop_and_flip(image, values, (64, 64), augment, (0, 0, 0), np.random.default_rng(1))
    inside = classes != IGNORE
    assert ((crop[..., 0] > 100) == classes)[inside].mean() > 0.95


def test_no_scale_is_larger_than_the_largest() -> None:
    augment, values = AugmentSection(scale=(0.5, 2.0, 0.9)), np.zeros((10, 10), np.uint8)
    rng, sides = np.random.default_rng(0), set()
    for _ in range(50):
        _, classes = crop_and_flip(np.stack([values] * 3, axis=2), values, (40, 40), augment, (0, 0, 0), rng)
        sides.add(int((classes != IGNORE).any(axis=0).sum()))
    assert sides == {5, 14}  # 0.5 and 1.4; the next step would be 2.3


@pytest.mark.parametrize("scale", ["[0.5, 2, 1e30]", "[0.5, 2, 4.1]", "[0.5, 2, 0]", "[0.5, 2, 1e-30]", "[2, 0.5, 1]"])
def test_scales_and_their_step_have_bounds(scale: str, folder: Path) -> None:
    settings = [f"Global.data_root={folder}", f"DataLoader.Train.dataset.augment.scale={scale}"]
    with pytest.raises(
        UserError, match=r"augment: .*scale must be least, largest, step, all above 0, up to 4"
    ) as caught:
        Segmentation(load_config("seg/my_masks", settings))
    assert "\n" not in str(caught.value)


def test_samples_are_a_function_of_seed_epoch_and_index(folder: Path) -> None:
    pairs = find_pairs(folder, "train", 0.2)

    def sample(seed: int, epoch: int, index: int) -> bytes:
        data = SegmentationDataset(pairs, Rules(2), NormalizeSection(), seed, AugmentSection(distort=0.5), (16, 16))
        return data[SampleKey(epoch, index, index)][0].tobytes()

    assert sample(0, 1, 2) == sample(0, 1, 2)
    assert len({sample(0, 1, 2), sample(1, 1, 2), sample(0, 2, 2), sample(0, 1, 3)}) == 4


def test_check_data_names_every_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "DataLoader.Train.sampler.batch_size=2"
    assert check_data(config(folder, small), folder / "samples.png") == 0
    assert (folder / "samples.png").is_file()
    save(folder / "masks/train/0.png", mask(10, 10))
    (folder / "images/train/1.jpg").write_bytes(b"no image")
    save(folder / "masks/val/0.png", np.full((20, 30), 77, np.uint8))
    (folder / "images/val/1.jpg").write_bytes((folder / "images/train/2.jpg").read_bytes())
    capsys.readouterr()
    assert check_data(config(folder, "Arch.class_num=2")) == 4
    text = capsys.readouterr().err
    for part in ("0.png: it is 10x10", "1.jpg", "no class has the value 77", "leakage"):
        assert part in text


def test_a_split_that_the_config_lacks_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"DataLoader\.Eval is missing"):
        Segmentation(config(folder, "DataLoader={Train: {dataset: {name: MaskFolder}}}")).eval_loader()


def test_training_refuses_wrong_masks_before_it_starts(folder: Path) -> None:
    save(folder / "masks/train/0.png", np.full((20, 30), 77, np.uint8))
    with pytest.raises(UserError, match="no class has the value 77"):
        Segmentation(config(folder, "Arch.class_num=2")).train_loader()


def test_a_mask_with_an_index_beyond_its_palette_is_damaged(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def write(colours: int) -> None:  # by hand, since Pillow would change the values that its palette has no colour for
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)) + chunk(b"PLTE", bytes(3 * colours))
        pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0, 1, 0, 2, 255])))  # each row begins with its filter
        (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))

    write(3)
    assert read_mask(tmp_path / "m.png", Rules(3)).tolist() == [[0, 1], [2, 255]]
    write(2)
    with pytest.raises(UserError, match=r"m.png: damaged, its palette has 2 colours and its pixels have 2;"):
        read_mask(tmp_path / "m.png", Rules(3))


def test_a_mask_without_its_end_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "m.png")
    whole = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").write_bytes(whole[:-14])  # all pixels are there
    with pytest.raises(UserError, match=r"mask .*m.png: cannot be decoded \(its end is missing\)"):
        read_mask(tmp_path / "m.png", Rules(3))


def test_a_mask_is_not_decoded_whose_header_asks_for_too_much(tmp_path: Path) -> None:
    (tmp_path / "m.ppm").write_bytes(b"P5 12000 12000 255\n")
    with pytest.raises(UserError, match=r"mask .*m.ppm: 12000 x 12000 are more pixels than"):
        read_mask(tmp_path / "m.ppm", Rules(3))
