"""Metrics against a slow reference, and the ways of running an image against each other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from seg.metrics import PixelConfusion, per_class_rows
from seg.sections import EvalSection
from seg.task import Segmentation
from seg.views import class_map, sliding, starts, whole
from tests.helpers.processes import SECONDS


def pointwise(x: paddle.Tensor) -> paddle.Tensor:
    """A network that looks at single pixels: every way of running it must agree."""
    return paddle.concat([x[:, :1] - x[:, 1:2], x[:, 2:], x.sum(1, keepdim=True) * 0.5], axis=1)


def noise(height: int, width: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, height, width)).astype("float32"))


def test_metrics_equal_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    confusion = PixelConfusion(4)
    pairs = [(rng.integers(0, 3, (1, 9, 11)), rng.choice([0, 1, 2, 255], (1, 9, 11))) for _ in range(3)]
    for predicted, labels in pairs:
        confusion.add(predicted.astype(np.int32), labels.astype(np.uint8))
    truth = np.concatenate([t.ravel() for _, t in pairs])
    guess = np.concatenate([p.ravel() for p, _ in pairs])[truth != 255]
    truth = truth[truth != 255]
    ious, dices = [], []
    for k in range(3):
        both = sum(1 for t, g in zip(truth, guess, strict=True) if t == k and g == k)
        either = sum(1 for t, g in zip(truth, guess, strict=True) if t == k or g == k)
        ious.append(both / either)
        dices.append(2 * both / (both + either))
    metrics = confusion.metrics()
    assert metrics["mIoU"] == pytest.approx(np.mean(ious))  # class 3 is nowhere, and does not lower the mean
    assert metrics["mDice"] == pytest.approx(np.mean(dices))
    assert metrics["accuracy"] == pytest.approx((truth == guess).mean())
    assert np.isnan(per_class_rows(confusion, "abcd")[3][3:]).all()


def test_nothing_but_ignored_pixels_is_an_error() -> None:
    confusion = PixelConfusion(2)
    confusion.add(np.zeros((1, 2, 2), np.int32), np.full((1, 2, 2), 255, np.uint8))
    with pytest.raises(UserError, match="every pixel of its masks is ignored"):
        confusion.metrics()


@pytest.mark.parametrize(("height", "width"), [(70, 101), (32, 64), (20, 30)])
def test_windows_and_whole_images_agree_where_they_must(height: int, width: int) -> None:
    x = noise(height, width)
    expected = pointwise(x).numpy()
    assert np.allclose(whole(pointwise, x).numpy(), expected, atol=1e-6)
    assert np.allclose(sliding(pointwise, x, (48, 40), (32, 20)).numpy(), expected, atol=1e-5)
    best = expected.argmax(1)
    for settings in (
        EvalSection(),
        EvalSection(mode="sliding", window=(48, 40)),
        EvalSection(flip=True),
        EvalSection(mode="sliding", window=(48, 40), stride=(48, 40), flip=True),
    ):
        assert np.array_equal(class_map(pointwise, x, settings, (48, 40)).numpy(), best)


def test_windows_cover_every_pixel_and_one_window_is_the_whole_image() -> None:
    for length in (1, 47, 48, 49, 200):
        covered = np.zeros(length, bool)
        for start in starts(length, 48, 32):
            covered[start : start + 48] = True
        assert covered.all()
    network = Segmentation(load_config("seg/demo", ["Arch.class_num=3"])).build_model()
    network.eval()
    x = noise(50, 70)
    with paddle.no_grad():
        one = sliding(lambda y: network(y)[0], x, (96, 96), (64, 64)).numpy()
        assert np.array_equal(one, whole(lambda y: network(y)[0], x).numpy())


def test_several_scales_average_probabilities() -> None:
    x = noise(40, 60)
    total = F.softmax(pointwise(x), 1)
    half = F.interpolate(x, [20, 30], mode="bilinear")
    total = total + F.softmax(F.interpolate(pointwise(half), [40, 60], mode="bilinear"), 1)
    found = class_map(pointwise, x, EvalSection(scales=(1.0, 0.5)), (32, 32)).numpy()
    assert np.array_equal(found, total.argmax(1).numpy())


@pytest.mark.slow
def test_memory_of_large_images_is_bounded() -> None:
    # In a process of its own, which no other test has made large before.
    program = """
import resource, paddle
from ppcls_ext.core.config import load_config
from seg.deployment import EvaluatedNetwork
from seg.sections import EvalSection
from seg.task import Segmentation
network = Segmentation(load_config("seg/deeplabv3p_pplcnet_x0_5_cityscapes")).build_model()
evaluated = EvaluatedNetwork(network, EvalSection(flip=True), (256, 512))
evaluated.eval()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with paddle.no_grad():
    for _ in range(2):
        evaluated(paddle.zeros([1, 3, 512, 1024]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert int(done.stdout.splitlines()[-1]) < 410_000  # kilobytes; about 312,000 were seen


def test_a_stride_above_the_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"Eval.stride: .* is more than the window"):
        Segmentation(load_config("seg/my_masks", ["Eval={mode: sliding, window: [64, 64], stride: [80, 64]}"]))
