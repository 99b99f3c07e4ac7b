"""The folder of a search is left alone by another one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.search import held_out
from ppcls_ext.search.find import Search
from ppcls_ext.search.wish import Wish
from tests.helpers.spaces import SIDE


def begun(wish: Wish) -> None:
    """Begin a search, and a training in it."""
    Search(wish).begin()
    (wish.out / "short").mkdir()


def test_a_space_around_another_scale_names_the_supernet_that_is_there(wish: Wish) -> None:
    begun(wish)
    (wish.out / "space.txt").write_text(f"tiny 0.5 {SIDE}\n")
    with pytest.raises(UserError, match=r"around PP-LCNet 0.5x, and by this .*x; give another --out$"):
        Search(wish)
    (wish.out / "supernet").mkdir()
    (wish.out / "supernet" / "last.pdparams").touch()
    with pytest.raises(UserError, match=r"give another --out, with --supernet .* if its supernet is to be used"):
        Search(wish)


@pytest.mark.parametrize(
    "events",
    [None, "", '{"event": "eval", "epoch": 1, "step": 2}\n',
     '{"event": "end", "step": 2}\n{"event": "resume", "epoch": 1, "step": 2}\n'],
)  # fmt: skip
def test_a_supernet_whose_training_has_not_ended_is_not_used(wish: Wish, tmp_path: Path, events: str | None) -> None:
    Search(wish).begin()
    run = wish.out / "supernet"
    run.mkdir()
    (run / "last.pdparams").touch()  # as every evaluation leaves it
    if events is not None:
        (run / "log.jsonl").write_text(events)
    with pytest.raises(UserError, match="no supernet was trained to its end there; go on with the search"):
        Search(replace(wish, supernet=wish.out, out=tmp_path / "other"))


def test_a_supernet_of_another_space_is_not_used(wish: Wish, tmp_path: Path) -> None:
    Search(wish).begin()
    (wish.out / "space.txt").write_text(f"lcnet 0.5 {SIDE}\n")
    with pytest.raises(UserError, match=rf"of the space lcnet at {SIDE} px, and this search of tiny at {SIDE} px"):
        Search(replace(wish, supernet=wish.out, out=tmp_path / "other"))


@pytest.mark.parametrize("content", ["", "tiny nan 32", "tiny inf 32", "tiny 1e9 32", "tiny 1 x", "tiny 1 32 4"])
def test_a_damaged_note_about_a_space_is_one_line(wish: Wish, tmp_path: Path, content: str) -> None:
    other = tmp_path / "other"
    (other / "supernet").mkdir(parents=True)
    (other / "supernet" / "last.pdparams").touch()
    (other / "space.txt").write_text(content)
    with pytest.raises(UserError, match="not the folder of a search; give that of one with --out"):
        Search(replace(wish, supernet=other))


def test_a_folder_of_a_search_with_other_settings_is_left_alone(wish: Wish) -> None:
    begun(wish)
    Search(wish)  # the same goes on
    with pytest.raises(
        UserError, match=r"it is of a search with other settings \(now 'epochs: 3'\); give another --out"
    ):
        Search(replace(wish, epochs=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"Global.seed=1"}, "other settings"), ({"DataLoader.Train.sampler.batch_size=16"}, "other settings")],
)
def test_what_is_refused_leaves_the_folder_as_it_was(wish: Wish, change: set[str], message: str) -> None:
    begun(wish)
    before = {file: file.read_bytes() for file in wish.out.iterdir() if file.is_file()}
    with pytest.raises(UserError, match=message):
        Search(replace(wish, overrides=(*wish.overrides, *change)))
    assert {file: file.read_bytes() for file in wish.out.iterdir() if file.is_file()} == before


def test_a_search_that_was_refused_before_it_trained_is_begun_anew(wish: Wish) -> None:
    slip = "Optimizer.lr.warmup_epoch=1"
    with pytest.raises(UserError, match="warmup_epoch"):
        Search(replace(wish, epochs=1, overrides=(*wish.overrides, slip))).run()
    Search(replace(wish, epochs=1)).begin()
    assert "epochs: 1" in (wish.out / "supernet.yaml").read_text()


def test_a_folder_that_no_config_can_name_is_refused(wish: Wish, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out .*caf\\xe9/s: its path is not UTF-8"):
        Search(replace(wish, out=tmp_path / "caf\udce9" / "s"))


def test_a_bound_that_is_refused_leaves_no_folder(wish: Wish) -> None:
    with pytest.raises(UserError, match="none of 1200 random networks takes"):
        Search(replace(wish, latency=1000.0))
    assert not wish.out.exists()


def test_one_class_is_refused_and_leaves_no_folder(
    wish: Wish, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "LEAST", 5)
    own = tmp_path / "images"
    for part in ("train", "val"):
        shutil.copytree(images / part / "blue", own / part / "blue")
    with pytest.raises(UserError, match="there is one class, so there is nothing to tell apart"):
        Search(replace(wish, overrides=(*wish.overrides, f"Global.data_root={own}")))
    assert not wish.out.exists()


def test_a_folder_of_a_search_on_other_images_is_left_alone(wish: Wish, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    shutil.copytree(images, own)
    on_own = replace(wish, overrides=(*wish.overrides, f"Global.data_root={own}"))
    begun(on_own)
    next((own / "train" / "blue").iterdir()).unlink()
    with pytest.raises(UserError, match=r"train_list.txt: it is of a search on other images, .*; give another --out"):
        Search(on_own)
