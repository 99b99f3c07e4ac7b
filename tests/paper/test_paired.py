"""`ppcls_ext.paper.paired`: differences of accuracies on the same images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.paper.paired import digest_of_images, paired_difference, right_answers


def answers(share: float, images: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(images) < share


def test_the_same_answers_differ_by_nothing() -> None:
    runs = [answers(0.7)] * 3
    assert paired_difference(runs, runs) == (0, 0, 0)


@pytest.mark.slow
def test_what_is_right_on_more_of_the_same_images_is_clearly_better() -> None:
    theirs = [answers(0.7, seed=k) for k in range(3)]
    ours = [run | answers(0.5, seed=9) for run in theirs]
    found = paired_difference(ours, theirs)
    assert found.low > 0
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(100 * (np.mean(ours) - np.mean(theirs)))
    assert paired_difference(theirs, ours).difference == pytest.approx(-found.difference)


def test_what_no_pair_supports_is_not_clear() -> None:
    found = paired_difference([answers(0.7, seed=k) for k in range(3)], [answers(0.7, seed=9 + k) for k in range(3)])
    assert found.low < 0 < found.high
    assert found.text == f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def test_a_digest_is_of_the_images_and_their_labels_wherever_they_lie(tmp_path: Path) -> None:
    def digest(folder: str, names: Sequence[str] = ("a/0.png", "b/1.png"), content: str = "xy") -> str:
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(content)
        return digest_of_images([str(tmp_path / folder / name) for name in names], np.array([0, 1]))

    one = digest("one")
    assert digest("two") == one
    others = [
        digest("three", content="xyz"),
        digest("four", ("b/1.png", "a/0.png")),
        digest("five", ("a/0.png", "b/2.png")),
    ]
    paths = [str(tmp_path / "one" / name) for name in ("a/0.png", "b/1.png")]
    others.append(digest_of_images(paths, np.array([1, 0])))
    assert len({one, *others}) == 1 + len(others)


@pytest.mark.slow
def test_answers_of_a_run_are_those_that_its_evaluation_counts(trained: Path) -> None:
    """Uses the run that several packages' tests share, which is trained once."""
    found, digest = right_answers(trained)
    assert digest == right_answers(trained).images
    metrics = json.loads((trained / "eval" / "metrics.json").read_text())
    assert len(found) == metrics["images"]
    assert found.mean() == pytest.approx(metrics["top1"])
