"""Images are held out from training to judge networks by."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.search import held_out
from ppcls_ext.search.find import Search
from ppcls_ext.search.held_out import hold_out
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from tests.helpers.spaces import SIDE


def test_the_same_share_of_each_class_is_held_out_and_evaluation_stays_unseen(wish: Wish, tmp_path: Path) -> None:
    task = make_task(load_config(wish.config, wish.overrides))
    lists = hold_out(task, tmp_path / "lists")
    lists.write()
    held = make_task(load_config(wish.config, [*wish.overrides, *lists.overrides]))
    fit, judged = held.data.train_split, held.data.eval_split
    assert [list(judged.labels).count(k) for k in range(3)] == [6] * 3
    assert [list(fit.labels).count(k) for k in range(3)] == [24] * 3
    assert set(fit.paths) | set(judged.paths) == {str(Path(p).resolve()) for p in task.data.train_split.paths}
    assert not set(fit.paths) & set(judged.paths)
    assert set(judged.labels[:6]) == {0, 1, 2}  # so that the first ones of many are of all classes
    assert fit.class_names == judged.class_names == task.data.train_split.class_names


def test_a_supernet_judges_no_images_that_it_has_seen(wish: Wish, tmp_path: Path) -> None:
    task = make_task(load_config(wish.config, wish.overrides))
    other = make_task(load_config(wish.config, [*wish.overrides, "Global.seed=1"]))
    hold_out(task, tmp_path / "one").write()
    hold_out(task, tmp_path / "same").check_supernet(tmp_path / "one")
    with pytest.raises(UserError, match=r"train_list.txt differs, so it was trained on other images .*; give the data"):
        hold_out(other, tmp_path / "other").check_supernet(tmp_path / "one")
    with pytest.raises(UserError, match=r"nowhere: classes.txt: No such file or directory; give the folder"):
        hold_out(task, tmp_path / "one").check_supernet(Path("nowhere"))


def test_a_supernet_of_data_that_were_moved_or_renamed_is_not_used(wish: Wish, images: Path, tmp_path: Path) -> None:
    """Of a copy, another seed would hold out images that the supernet has seen under another path."""
    hold_out(make_task(load_config(wish.config, wish.overrides)), tmp_path / "one").write()
    moved, renamed = tmp_path / "moved", tmp_path / "renamed"
    for copy in (moved, renamed):
        shutil.copytree(images, copy)
    for part in ("train", "val"):  # now the last class, so that all have other numbers
        (renamed / part / "blue").rename(renamed / part / "violet")
    for copy, file in ((moved, "train_list.txt"), (renamed, "classes.txt")):
        task = make_task(load_config(wish.config, [*wish.overrides, f"Global.data_root={copy}"]))
        with pytest.raises(UserError, match=f"{file} differs, so it was trained on other images"):
            hold_out(task, tmp_path / "other").check_supernet(tmp_path / "one")


@pytest.mark.parametrize(("name", "fault"), [(b"caf\xe9.png", "is not UTF-8"), (b"a\nb.png", "has a line break")])
def test_an_image_that_no_list_can_name_is_refused(
    name: bytes, fault: str, wish: Wish, images: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(images, tmp_path / "copy"))
    folder = os.fsencode(copy / "train" / "red")
    os.rename(os.path.join(folder, min(os.listdir(folder))), os.path.join(folder, name))
    task = make_task(load_config(wish.config, [*wish.overrides, f"Global.data_root={copy}"]))
    with pytest.raises(UserError, match=f"its path {fault}.*; rename it"):
        hold_out(task, tmp_path / "lists")


def test_an_image_that_is_listed_twice_is_not_both_fitted_to_and_judged_by(
    images: Path, calibration: Calibration, tmp_path: Path
) -> None:
    listed = [f"{path} {label}" for label, name in enumerate(("blue", "green", "red"))
              for path in sorted((images / "train" / name).iterdir())]  # fmt: skip
    (tmp_path / "train_list.txt").write_text("\n".join([*listed, *listed[::2]]) + "\n")
    (tmp_path / "classes.txt").write_text("blue\ngreen\nred\n")
    data = [f"DataLoader.{part}.dataset={{name: ImageNetDataset, image_root: /, cls_label_path: "
            f"{tmp_path / 'train_list.txt'}, transform_ops: []}}" for part in ("Train", "Eval")]  # fmt: skip
    task = make_task(load_config("my_images", [*data, f"Global.image_shape=[3,{SIDE},{SIDE}]"]))
    train, judged = ([line for file, text in hold_out(task, tmp_path / "out").texts.items() if file.name == name
                      for line in text.splitlines()] for name in (held_out.TRAIN_LIST, held_out.EVAL_LIST))  # fmt: skip
    assert len(set(judged)) == len(judged) == 18
    assert not set(train) & set(judged)
    assert len(train) > len(set(train)) == 72


def test_a_class_of_few_images_has_one_to_judge_by_and_one_to_fit_to(
    wish: Wish, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "images"
    shutil.copytree(images, own)
    left = {"blue": 30, "green": 4, "red": 1}
    for name, number in left.items():
        for file in sorted((own / "train" / name).iterdir())[number:]:
            file.unlink()
    monkeypatch.setattr(held_out, "LEAST", 7)
    task = make_task(load_config(wish.config, [*wish.overrides, f"Global.data_root={own}"]))
    lists = {file.name: text.splitlines() for file, text in hold_out(task, tmp_path / "out").texts.items()}
    counts = {name: [sum(line.endswith(f" {k}") for line in lines) for k in range(3)] for name, lines in lists.items()}
    assert counts[held_out.EVAL_LIST] == [6, 1, 0]
    assert counts[held_out.TRAIN_LIST] == [24, 3, 1]


def test_too_few_images_are_one_line(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "LEAST", 50)
    with pytest.raises(UserError, match="90 images are too few for a search, which holds out 20% of each class"):
        Search(wish)
