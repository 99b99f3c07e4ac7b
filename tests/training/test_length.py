"""The length of a run: by epochs or steps, longer on small sets, and whatever is given explicitly holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.core.config import Global, load_config
from ppcls_ext.training import length as module
from ppcls_ext.training.length import Forecast, length_of


@pytest.mark.parametrize(
    ("settings", "batches", "epochs", "last_step", "intervals"),
    [
        ({"epochs": 20}, 9, 20, 180, (1, 2)),
        ({"epochs": 20, "least_steps": 100}, 9, 20, 180, (1, 2)),
        ({"epochs": 20, "least_steps": 400}, 9, 45, 405, (3, 6)),
        ({"epochs": 20, "least_steps": 4000}, 9, 200, 1800, (10, 20)),  # ten times as many at most
        ({"epochs": 20, "least_steps": 400, "update_freq": 2}, 9, 80, 400, (4, 8)),
        ({"epochs": 20, "iters": 50, "least_steps": 4000}, 9, 6, 50, (1, 2)),
    ],
)
def test_a_small_set_gets_more_epochs(
    settings: dict[str, int], batches: int, epochs: int, last_step: int, intervals: tuple[int, int]
) -> None:
    found = length_of(Global(**settings, save_interval=2), batches)
    assert (found.epochs, found.last_step, (found.eval_interval, found.save_interval)) == (epochs, last_step, intervals)
    assert (found.note is not None) == (epochs > 20)


def test_the_note_says_how_to_have_it_otherwise() -> None:
    note = length_of(Global(epochs=20, least_steps=400), 9).note
    assert note is not None
    assert note.startswith("45 epochs, 405 steps")
    assert note.endswith("-o Global.epochs=20 trains just those")


@pytest.mark.parametrize("config", ["my_images", "det/my_coco", "seg/my_masks"])
def test_a_length_that_is_given_replaces_the_rule(config: str) -> None:
    ruled, by_epochs, by_steps, with_rule = (
        load_config(config, given).global_section
        for given in ([], ["Global.epochs=7"], ["Global.iters=50"], ["Global.epochs=7", "Global.least_steps=9"])
    )
    assert ruled.least_steps
    assert ruled.iters is None
    assert (by_epochs.epochs, by_epochs.iters, by_epochs.least_steps) == (7, None, None)
    assert (by_steps.iters, by_steps.least_steps) == (50, None)
    assert (with_rule.epochs, with_rule.least_steps) == (7, 9)


def test_a_length_that_a_file_gives_replaces_that_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("Global: {iters: 100, least_steps: 5}\n")
    (tmp_path / "own.yaml").write_text("_base_: base.yaml\nGlobal: {epochs: 3}\n")
    section = load_config(tmp_path / "own.yaml").global_section
    assert (section.epochs, section.iters, section.least_steps) == (3, None, None)


def test_the_time_of_the_rest_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))  # a step takes a second
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    forecast = Forecast(last_step=500)
    lines = [line for step in range(1, 101) if (line := forecast.step(step, images=8))]
    assert lines == ["477 steps to go, about 0:07:57 at 8.0 images/s, without evaluations"]
