"""Networks are judged by the images that were held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from ppcls_ext.core.config import load_config
from ppcls_ext.core.seeding import seed_all
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from tests.helpers.spaces import SIDE, write_images


@pytest.fixture
def task(tmp_path: Path) -> Task:
    settings = [
        f"Global.data_root={write_images(tmp_path / 'images', 8)}", f"Global.image_shape=[3,{SIDE},{SIDE}]",
        "Global.fast_cpu=false", "DataLoader.Train.loader.num_workers=0", "DataLoader.Eval.loader.num_workers=0",
        "DataLoader.Train.sampler.batch_size=8", f"Global.output_dir={tmp_path}",
    ]  # fmt: skip
    return make_task(load_config("my_images", settings))


def network() -> nn.Layer:
    seed_all(0)
    return nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, 3))


def test_a_network_is_judged_by_the_images_that_an_evaluation_has(task: Task) -> None:
    one = network()
    found = Judge(task).quality(one, own_statistics=True)
    scores, right = [], []
    for images, labels in task.eval_loader().epoch():
        of_classes = functional.softmax(one(images), axis=-1).numpy()
        scores.append(of_classes[np.arange(len(images)), labels.numpy()[:, 0]])
        right.append(of_classes.argmax(-1) == labels.numpy()[:, 0])
    assert found == Quality(float(np.concatenate(scores).mean()), float(np.concatenate(right).mean()))


def test_a_network_is_judged_the_same_again(task: Task) -> None:
    judge = Judge(task)
    assert judge.quality(network()) == judge.quality(network())


def test_a_network_that_gives_no_numbers_is_the_worst(task: Task) -> None:
    one = network()
    one[3].bias.set_value(paddle.full([3], float("nan")))
    assert Judge(task).quality(one) == Quality(0.0, 0.0)
