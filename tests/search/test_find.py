"""A search from its config to the network that it chooses, on an engine whose speed is made up."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import main
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.weights import load_into, read_weights
from ppcls_ext.search import front as fronts
from ppcls_ext.search import held_out
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.find import Search
from ppcls_ext.search.held_out import hold_out
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.search.latency import Accuracy, LatencyModel
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.scores import Scorer
from ppcls_ext.search.space import SPACES
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.interrupts import Stopped
from tests.helpers.spaces import SIDE, tiny_space, write_images

SPACE = tiny_space()
GOOD = Accuracy(0.01, 1.0, 0.99, 50)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("search") / "images")


@pytest.fixture
def calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """One of this machine, whose model charges for work and calls."""
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(SPACES, "tiny", SPACE)
    monkeypatch.setattr(held_out, "LEAST", 10)
    names = {name for spec in [SPACE.largest(), *SPACE.samples(50, 0)] for name in costs_of(spec)}
    prices = {name: 0.2 if name.endswith(".work") else 0.01 for name in names}
    target = target_of("onednn", 1)
    found = Calibration(target, "tiny", "", "", {}, model=LatencyModel(target, prices), accuracy={"model": GOOD})
    found.save(tmp_path / "cache" / "latency" / "onednn-1-tiny.json")
    return found


@pytest.fixture
def wish(images: Path, calibration: Calibration, tmp_path: Path) -> Wish:
    assert calibration.model is not None
    ends = [calibration.model.predict(spec, 3) for spec in (SPACE.smallest(), SPACE.largest())]
    settings = (
        f"Global.data_root={images}", f"Global.image_shape=[3,{SIDE},{SIDE}]", "Global.least_steps=null",
        "DataLoader.Train.loader.num_workers=0", "DataLoader.Eval.loader.num_workers=0",
        "Optimizer.lr.warmup_epoch=0", "DataLoader.Train.sampler.batch_size=32", f"Global.output_dir={tmp_path}",
    )  # fmt: skip
    return Wish(
        "my_images", settings, sum(ends) / 2, None, "onednn", 1, "tiny", "supernet", 2, 6, None, None, tmp_path / "out"
    )


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "build", lambda network, work, formats: None)


def benchmark(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """Every network takes a millisecond, but for the first."""
    ratio = {"ratio": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"failure": None, "ms": {"median": 2.0}, "ratio_to_first": {**ratio, "ratio": 0.5 + 0.5 * (k == 0)}}
            for k, _ in enumerate(subjects)]  # fmt: skip
    return {"results": rows, "warnings": []}


@pytest.mark.slow
def test_a_search_leaves_a_front_and_a_config_that_trains(wish: Wish, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains a supernet of small networks for two epochs, and the chosen one for one."""
    front = Search(wish, benchmark).run()
    out = wish.out
    assert {"front.json", "front.md", "front.svg", "chosen.yaml", "chosen.pdparams"} <= {f.name for f in out.iterdir()}
    content = json.loads((out / "front.json").read_text())
    assert content["chosen"]["arch"] == front.chosen.arch
    assert all(row["predicted"] <= (wish.latency or 0) for row in content["rows"])
    page = (out / "front.md").read_text()
    assert f"**{front.chosen.name}**" in page
    assert "rank correlation with what the judge says" in page
    assert "Where the latency model was off" in page  # the made-up engine takes a millisecond for everything
    config = load_config(out / "chosen.yaml")
    task = make_task(config)
    assert task.class_num == 3
    weights = read_weights(out / "chosen.pdparams")
    assert load_into(task.build_model(), weights, "chosen") == []
    run = ["train", "-c", str(out / "chosen.yaml"), "-o", "Global.epochs=1"]
    assert main([*run, "-o", f"Global.pretrained_model={out / 'chosen.pdparams'}"]) == 0

    # Another latency on the same supernet trains nothing.
    again = replace(wish, latency=0.95 * (wish.latency or 0), supernet=out, out=out.parent / "again")
    capsys.readouterr()
    Search(again, benchmark).run()
    assert "epoch 1/" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_that_was_stopped_finds_the_same_front(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains two supernets of small networks for two epochs."""
    whole = Search(wish, benchmark).run()
    judge, calls = Judge.quality, list[int]()

    def stops(self: Judge, network: Any, own_statistics: bool = False) -> Quality:
        calls.append(1)
        if len(calls) in (2, 9):  # while the supernet trains, and while networks are judged
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, network, own_statistics)

    monkeypatch.setattr(Judge, "quality", stops)
    again = replace(wish, out=wish.out.parent / "stopped")
    for _ in range(2):
        with pytest.raises(Stopped):
            Search(again, benchmark).run()
    assert Search(again, benchmark).run() == whole


@pytest.mark.slow
def test_short_trainings_judge_each_network_by_itself(wish: Wish) -> None:
    """Trains four small networks for an epoch."""
    front = Search(replace(wish, accuracy="short", candidates=4, epochs=1), benchmark).run()
    content = json.loads((wish.out / "candidates.json").read_text())
    assert len(content["candidates"]) == 4
    for candidate in content["candidates"]:
        assert (wish.out / "short" / parse_spec(candidate["arch"]).name / "last.pdparams").is_file()
    assert front.chosen.expected == max(c["expected"] for c in content["candidates"] if c["arch"] == front.chosen.arch)


@pytest.mark.slow
def test_scores_alone_need_no_training_and_say_so(wish: Wish) -> None:
    front = Search(replace(wish, accuracy="scores", candidates=6), benchmark).run()
    assert any("Zen score alone, which ranks networks badly" in line for line in front.conditions)
    page = (wish.out / "front.md").read_text()
    assert "Zen score | params" in page
    assert "top-1" not in page  # nothing was judged by images


@pytest.mark.slow
def test_a_calibration_made_in_between_predicts_anew_and_keeps_what_was_judged(
    wish: Wish, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_scores = replace(wish, accuracy="scores", candidates=6)
    Search(by_scores, benchmark).run()
    earlier = {c["arch"]: c for c in json.loads((wish.out / "candidates.json").read_text())["candidates"]}
    scored: list[str] = []
    score = Scorer.__call__

    def seen(self: Scorer, spec: NetworkSpec, name: str = "zen") -> float:
        scored.append(spec.text)
        return score(self, spec, name)

    monkeypatch.setattr(Scorer, "__call__", seen)
    assert calibration.model is not None
    prices = {name: 0.98 * price for name, price in calibration.model.prices.items()}
    faster = replace(calibration, model=LatencyModel(calibration.target, prices))
    faster.save(tmp_path / "cache" / "latency" / "onednn-1-tiny.json")
    Search(by_scores, benchmark).run()
    assert faster.model is not None
    for candidate in json.loads((wish.out / "candidates.json").read_text())["candidates"]:
        assert candidate["ms"] == faster.model.predict(parse_spec(candidate["arch"]), 3)
        if candidate["arch"] in earlier:
            assert candidate["expected"] == earlier[candidate["arch"]]["expected"]
    assert not set(scored) & set(earlier)


def test_a_space_around_another_scale_names_the_supernet_that_is_there(wish: Wish) -> None:
    Search(wish, benchmark)
    (wish.out / "space.txt").write_text(f"tiny 0.5 {SIDE}\n")
    with pytest.raises(UserError, match=r"around PP-LCNet 0.5x, and by this .*; give another --out, with --supernet"):
        Search(wish, benchmark)


# Held-out images


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
    hold_out(task, tmp_path / "same").check_unseen(tmp_path / "one")
    with pytest.raises(UserError, match=r"trained on \d+ of the images that this search would judge by; give the data"):
        hold_out(other, tmp_path / "other").check_unseen(tmp_path / "one")
    with pytest.raises(UserError, match=r"nowhere: train_list.txt: No such file or directory; give the folder"):
        hold_out(task, tmp_path / "one").check_unseen(Path("nowhere"))


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


def test_too_few_images_are_one_line(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "LEAST", 50)
    with pytest.raises(UserError, match="90 images are too few for a search, which holds out 20% of each class"):
        Search(wish, benchmark)


# What cannot be searched for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 1e-3}, "nothing in the space 'tiny' is so fast at 32 px; the fastest takes"),
        ({"latency": None, "like": "PPLCNet_x9"}, "--like PPLCNet_x9: no network of that name"),
        ({"engine": "native"}, "no calibration of native with 1 threads; make one: pplcnet search --calibrate"),
        ({"threads": 2}, "calibrat"),
        ({"space": "cpu"}, r"space 'cpu': the calibration has no .*full"),
        ({"space": "moon"}, "no space 'moon'"),
        ({"supernet": Path("nowhere")}, "--supernet nowhere: not the folder of a search"),
    ],
)
def test_what_cannot_be_found_is_one_line(wish: Wish, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Search(replace(wish, **change), benchmark)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "tiny nan 32", "tiny inf 32", "tiny 1e9 32", "tiny 1 x", "tiny 1 32 4"])
def test_a_damaged_note_about_a_space_is_one_line(wish: Wish, tmp_path: Path, content: str) -> None:
    other = tmp_path / "other"
    (other / "supernet").mkdir(parents=True)
    (other / "supernet" / "last.pdparams").touch()
    (other / "space.txt").write_text(content)
    with pytest.raises(UserError, match="not the folder of a search; give that of one with --out"):
        Search(replace(wish, supernet=other), benchmark)


def test_a_folder_of_a_search_with_other_settings_is_left_alone(wish: Wish) -> None:
    Search(wish, benchmark)
    Search(wish, benchmark)  # the same goes on
    with pytest.raises(
        UserError, match=r"it is of a search with other settings \(now 'epochs: 3'\); give another --out"
    ):
        Search(replace(wish, epochs=3), benchmark)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"Global.seed=1"}, "other settings"), ({"DataLoader.Train.sampler.batch_size=16"}, "other settings")],
)
def test_what_is_refused_leaves_the_folder_as_it_was(wish: Wish, change: set[str], message: str) -> None:
    Search(wish, benchmark)
    before = {file: file.read_bytes() for file in wish.out.iterdir()}
    with pytest.raises(UserError, match=message):
        Search(replace(wish, overrides=(*wish.overrides, *change)), benchmark)
    assert {file: file.read_bytes() for file in wish.out.iterdir()} == before


def test_a_folder_of_a_search_on_other_images_is_left_alone(wish: Wish, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    shutil.copytree(images, own)
    on_own = replace(wish, overrides=(*wish.overrides, f"Global.data_root={own}"))
    Search(on_own, benchmark)
    next((own / "train" / "blue").iterdir()).unlink()
    with pytest.raises(UserError, match=r"train_list.txt: it is of a search on other images, .*; give another --out"):
        Search(on_own, benchmark)


@pytest.mark.parametrize("shape", ["[3,32,64]", "[3,100,100]"])
def test_images_that_no_network_is_for_are_one_line(wish: Wish, shape: str) -> None:
    with pytest.raises(UserError, match="a search needs square images with sides that 32 divides"):
        Search(replace(wish, overrides=(*wish.overrides, f"Global.image_shape={shape}")), benchmark)


def test_a_calibration_that_was_not_accepted_is_said_in_the_log_and_in_the_front(
    wish: Wish, calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cache" / "latency" / "onednn-1-tiny.json"
    replace(calibration, accuracy={"model": Accuracy(0.071, 0.95, 0.98, 50)}).save(file)
    doubt = "warning: the calibration of onednn with 1 thread was not accepted: its median error is 7.1%, more than 5%"
    by_scores = replace(wish, accuracy="scores", candidates=6)
    front = Search(by_scores, benchmark).run()
    assert capsys.readouterr().err.splitlines().count(doubt) == 1
    assert doubt in front.conditions
    assert doubt in json.loads((wish.out / "front.json").read_text())["conditions"]
    assert f"- {doubt}\n" in (wish.out / "front.md").read_text()
    calibration.save(file)
    assert not any("warning" in line for line in Search(by_scores, benchmark).run().conditions)


def test_a_calibration_of_another_machine_is_one_line(wish: Wish, calibration: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    replace(calibration, target=replace(calibration.target, cpu=("Another CPU",))).save(file)
    with pytest.raises(UserError, match="cpu: Another CPU, not"):
        Search(replace(wish, calibration=file), benchmark)


def test_another_task_is_one_line(wish: Wish, calibration: Calibration) -> None:
    with pytest.raises(UserError, match="a search knows classification, not segmentation"):
        Search(replace(wish, config="seg/my_masks", overrides=("Global.image_shape=[3,64,64]",)), benchmark)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "say what to do: --calibrate measures networks"),
        (["-c", "my_images"], "give either --latency MS or --like NETWORK"),
        (["-c", "my_images", "--latency", "1", "--like", "PPLCNet_x0_5"], "give either --latency MS or --like NETWORK"),
        (["--calibrate", "--latency", "1"], "leave --latency out"),
        (["--calibrate", "-o", "Global.seed=1"], "leave --override out"),
        (["--calibrate", "--candidates", "9"], "leave --candidates out"),
        (["-c", "my_images", "--latency", "1", "--quick"], "only --calibrate has a use for it: leave --quick out"),
        (["-c", "my_images", "--latency", "1", "--work", "x"], "only --calibrate has a use for it: leave --work out"),
        (
            ["-c", "my_images", "--latency", "1", "--accuracy", "scores", "--epochs", "9"],
            "trains nothing: leave --epochs",
        ),
        (["-c", "my_images", "--latency", "1", "--accuracy", "short", "--supernet", "x"], "leave --supernet out"),
        (
            ["-c", "my_images", "--latency", "1", "--supernet", "x", "--epochs", "9"],
            "trained already: leave --epochs out",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *flags]) == 2
    assert message in capsys.readouterr().err
