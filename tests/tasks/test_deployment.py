"""A network that takes pixels and normalises by itself gives what the one that takes floats gives."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
from ppcls_ext.tasks.deployment import Deployment, FromPixels, Input, from_pixels


def outputs_of(model: nn.Layer, array: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        found: np.ndarray = model(paddle.to_tensor(array)).numpy()
    return found


@pytest.fixture
def network() -> nn.Layer:
    paddle.seed(0)
    return nn.Conv2D(3, 5, 3, padding=1)


def test_pixels_at_the_border_count_as_they_did(network: nn.Layer) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3)).astype(np.uint8)
    floats = np.stack([normalize(image) for image in pixels])
    found = outputs_of(FromPixels(network, IMAGENET_MEAN, IMAGENET_STD), pixels)
    np.testing.assert_array_equal(found, outputs_of(network, floats))


def test_inputs_recipe_and_samples_are_of_pixels(network: nn.Layer) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    floats = Deployment(
        model=network,
        inputs=[Input("x", (-1, 3, 8, 12), "float32")],
        outputs=["y"],
        recipe={"preprocess": {"resize": [8, 12]}},
        samples=lambda count: [np.stack([normalize(image)] * count)],
        difference=lambda ours, theirs: 0.0,
        tolerance=0.0,
    )
    pixels = from_pixels(floats._replace(also=floats), IMAGENET_MEAN, IMAGENET_STD)
    assert pixels.inputs == [Input("x", (-1, 8, 12, 3), "uint8")]
    assert pixels.recipe["preprocess"] == {"resize": [8, 12], "input": "uint8"}
    np.testing.assert_array_equal(pixels.samples(2)[0], np.stack([image] * 2))
    assert pixels.also is not None
    np.testing.assert_array_equal(
        outputs_of(pixels.also.model, pixels.samples(1)[0]), outputs_of(network, floats.samples(1)[0])
    )
