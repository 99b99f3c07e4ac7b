"""`ppcls_ext.core.images`: whole images are read as RGB; broken ones are named, and why."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.core.images import BrokenImage, check_images, find_images, read_rgb


@pytest.fixture
def gradient() -> np.ndarray:
    """Wide, uint8 RGB [32, 48, 3]: red grows to the right, green grows downwards."""
    red, green = np.meshgrid(np.linspace(0, 250, 48), np.linspace(0, 250, 32))
    return np.stack([red, green, np.full_like(red, 60)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats_are_read_exactly(ending: str, gradient: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(gradient).save(tmp_path / f"a.{ending}")
    read = read_rgb(tmp_path / f"a.{ending}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, gradient)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_lossy_formats_are_read_as_rgb(ending: str, gradient: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(gradient).save(tmp_path / f"a.{ending}", quality=95)
    assert np.abs(read_rgb(tmp_path / f"a.{ending}").astype(int) - gradient).mean() < 4


# EXIF orientation -> what has to be done to the stored pixels to see them upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, gradient: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient).save(tmp_path / "turned.jpg", quality=98, exif=exif)
    read, expected = read_rgb(tmp_path / "turned.jpg"), UPRIGHT[orientation](gradient)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 4


def test_grey_and_palette_become_rgb(gradient: np.ndarray, tmp_path: Path) -> None:
    grey = gradient[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(gradient).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_alpha_is_dropped(gradient: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((*gradient.shape[:2], 1), 128, np.uint8)
    Image.fromarray(np.concatenate([gradient, alpha], axis=2)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), gradient)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([220, 20, 20], np.uint8)
    Image.fromarray(red).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_rgb(tmp_path / "cmyk.jpg").astype(int) - red).mean() < 12


def test_sixteen_bits_are_scaled_to_eight(gradient: np.ndarray, tmp_path: Path) -> None:
    grey = gradient[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.abs(read_rgb(tmp_path / "deep.png")[..., 0].astype(int) - grey).max() <= 1


def test_a_path_may_have_any_letters(gradient: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "Bild mit Größe 日本.png"
    Image.fromarray(gradient).save(path)
    np.testing.assert_array_equal(read_rgb(path), gradient)


def broken(folder: Path, kind: str, image: np.ndarray) -> Path:
    path = folder / f"{kind.replace(' ', '_')}.jpg"
    if kind.startswith("truncated"):
        whole = folder / f"whole.{kind.split()[1]}"
        Image.fromarray(image).save(whole)
        path = folder / f"cut.{kind.split()[1]}"
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404 not found</html>\n" * 20)
    elif kind == "folder":
        path.mkdir()
    elif kind == "changed png":
        Image.fromarray(image).save(path, "PNG")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    return path


CUT = ("jpg", "png", "bmp", "webp", "tiff")
KINDS = ["missing", "empty", "text", "folder", "changed png", *(f"truncated {ending}" for ending in CUT)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_named_in_one_line(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = broken(tmp_path, kind, noise)
    with pytest.raises(BrokenImage) as caught:
        read_rgb(path)
    text = str(caught.value)
    assert text.startswith(f"image {path}: ")
    assert "\n" not in text
    assert text.endswith("from the list")
    assert capfd.readouterr() == ("", "")  # the decoders' own lines would come on top of it


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("size", [(40, 40), (300, 200)])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_an_image_cut_anywhere_is_broken(
    ending: str, kept: float, size: tuple[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(BrokenImage, match=r"(?i)truncated|cannot be decoded|broken"):
        read_rgb(path)
    assert capfd.readouterr() == ("", "")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(gradient: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(gradient).save(tmp_path / "a.jpg")
    whole = read_rgb(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"camera" * 10)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), whole)


def test_check_images_decodes_all_in_time_and_only_looks_without(images: Path) -> None:
    paths = find_images([str(images)])
    assert len(paths) == 21
    assert check_images(paths, 60.0, seed=0) == 21
    Path(paths[5]).write_bytes(b"not an image")
    assert check_images(paths, 0.0, seed=0) < 21
    with pytest.raises(BrokenImage, match=paths[5]):
        check_images(paths, 60.0, seed=0)
    Path(paths[7]).unlink()
    with pytest.raises(BrokenImage, match=f"{paths[7]}: no such file"):
        check_images(paths, 0.0, seed=0)


def test_folders_in_folders_are_followed_as_deep_as_they_go(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a"] * 150)
    folder.mkdir(parents=True)
    (folder / "b.png").touch()
    (tmp_path / "c.png").touch()
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 100)  # functions may not call each other as deep as the folders go
        found = find_images([str(tmp_path)])
    finally:
        sys.setrecursionlimit(limit)
    assert found == [str(folder / "b.png"), str(tmp_path / "c.png")]


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(BrokenImage, match="larger than 2048 MB"):
        read_rgb(tmp_path / "a.png")


def test_find_images_takes_files_folders_and_globs(images: Path) -> None:
    one = str(images / "val" / "red" / "01.png")
    assert find_images([one]) == [one]
    assert find_images([str(images / "val" / "red")]) == [str(images / "val" / "red" / f"0{i}.png") for i in range(3)]
    assert len(find_images([str(images / "val" / "*" / "00.png")])) == 3
    assert len(find_images([str(images / "**" / "00.png")])) == 6
    assert find_images([one, str(images / "val" / "red"), one])[0] == one  # named once, where it came first
    assert len(find_images([one, str(images / "val" / "red"), one])) == 3


def test_find_images_goes_through_folders_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("a/b.png", "a/B/0.JPG", "a-b.png", "a.png", "a0.png", "z.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")  # images behind the link are named once, where they are
    names = [".hidden.png", "a/B/0.JPG", "a/b.png", "a-b.png", "a.png", "a0.png"]
    assert find_images([str(tmp_path)]) == [str(tmp_path / name) for name in names]


def test_what_is_no_readable_file_is_found_too_and_named_by_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found = find_images([str(tmp_path)])
    assert [Path(path).name for path in found] == ["loop.jpg", "nowhere.jpg", "pipe.jpg"]
    for path in found:
        with pytest.raises(BrokenImage, match=Path(path).name):
            read_rgb(path)


def test_find_images_names_what_finds_nothing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with pytest.raises(Exception, match=r"texts: no images .* in this folder"):
        find_images([str(images), str(tmp_path / "texts")])
    with pytest.raises(Exception, match=r"no\*such: no such file or folder"):
        find_images(["no*such"])


def test_a_header_decides_before_anything_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "huge.ppm").write_bytes(b"P6 60000 60000 255\n")
    with pytest.raises(BrokenImage, match="60000 x 60000 are more pixels than max_pixels=134217728 allows; shrink it"):
        read_rgb(tmp_path / "huge.ppm")
    (tmp_path / "a.png").write_bytes(b"\x76\x2f\x31\x01\x02" + bytes(300))  # an EXR
    with pytest.raises(BrokenImage, match="not an image of a known kind"):
        read_rgb(tmp_path / "a.png")
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(BrokenImage, match="it is a FIFO, not a file"):
        read_rgb(tmp_path / "fifo.png")
