"""What a step of a supernet's training teaches its networks."""

from __future__ import annotations

import math
from pathlib import Path

import paddle
import pytest

from ppcls_ext.core.config import load_config
from ppcls_ext.core.seeding import STEP, seed_all, seed_paddle
from ppcls_ext.search.sandwich import SandwichTask
from ppcls_ext.search.supernet import Supernet
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.step import Step
from tests.helpers.spaces import SIDE, tiny_space, write_images


@pytest.fixture
def task(tmp_path: Path) -> SandwichTask:
    images = write_images(tmp_path / "images", 8)
    settings = [
        f"Global.data_root={images}", f"Global.image_shape=[3,{SIDE},{SIDE}]", "DataLoader.Train.sampler.batch_size=8",
        "DataLoader.Train.loader.num_workers=0", f"Global.output_dir={tmp_path}",
    ]  # fmt: skip
    return SandwichTask(make_task(load_config("my_images", settings)), tiny_space())


def of_loss(value: float) -> Step:
    return Step({"loss": paddle.to_tensor(value)}, {}, 1)


def test_the_largest_network_counts_as_far_as_it_is_better_than_guessing(task: SandwichTask) -> None:
    guessing = math.log(3)
    trust = [task._trust(of_loss(share * guessing)) for share in (2.0, 1.0, 0.5, 0.0)]
    assert trust == pytest.approx([0.0, 0.0, 0.5, 1.0], abs=1e-6)


def loss_of_a_step(task: SandwichTask, trust: float, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """The loss of all networks and that of the largest, of the same weights, images and networks each time."""
    monkeypatch.setattr(task, "_trust", lambda largest: trust)
    seed_all(0)
    model = Supernet(task.space, 3)
    task._ends = None
    batch = next(iter(task.train_loader().epoch()))
    seed_paddle(0, STEP, 0)
    losses = task.step(model, batch).losses
    return float(losses["loss"]), float(losses["largest"])


def test_other_networks_learn_from_labels_and_from_the_largest(
    task: SandwichTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is the sum over the networks, in which labels and the largest network share as it is trusted."""
    of_labels, largest = loss_of_a_step(task, 0.0, monkeypatch)
    of_largest, same = loss_of_a_step(task, 1.0, monkeypatch)
    both, _ = loss_of_a_step(task, 0.25, monkeypatch)
    assert same == largest
    assert of_labels != pytest.approx(of_largest, rel=1e-3)
    assert both == pytest.approx(0.75 * of_labels + 0.25 * of_largest, rel=1e-3)
    assert of_labels > 2 * largest  # the sum over four networks, not their mean


def test_where_a_teacher_is_asked_the_others_learn_from_the_largest_alone(task: SandwichTask) -> None:
    task.config["Distill"] = {"teacher": "made up"}
    assert task._trust(of_loss(100.0)) == 1.0
