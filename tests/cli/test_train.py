"""Wrong keys, data and configs end `pplcnet train` in one line that says what is wrong and where, and status 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.cli import train
from ppcls_ext.cli.main import main
from tests.helpers.configs import overrides

Fails = Callable[..., str]

UNKNOWN_KEYS = [
    ("Global.epoch=3", "Global.epoch: unknown key; did you mean 'epochs'?"),
    ("Arch.dropuot_prob=0.1", "Arch.dropuot_prob: unknown key; did you mean 'dropout_prob'?"),
    ("Arch.name=PPLCNet_x10", "did you mean 'PPLCNet_x1_0'?"),
    ("Optimizer.momentun=0.9", "Optimizer.momentun: unknown key; did you mean 'momentum'?"),
    ("Optimizer.name=Momentun", "did you mean 'Momentum'?"),
    ("Optimizer.lr.warmup_epochs=1", "Optimizer.lr.warmup_epochs: unknown key; did you mean 'warmup_epoch'?"),
    ("Optimizer.lr.name=Cosin", "did you mean 'Cosine'?"),
    ("DataLoader.Train.sampler.batchsize=8", "did you mean 'batch_size'?"),
    ("DataLoader.Test={}", "DataLoader.Test: unknown split"),
    ("DataLoader.Train.dataset.transform_ops.RandCropImage.sise=3", "did you mean 'size'?"),
    ("DataLoader.Train.dataset.transform_ops=[RandCropImag: {size: 32}]", "did you mean 'RandCropImage'?"),
    ("Loss.Train=[CELos: {}]", "did you mean 'CELoss'?"),
    ("Loss.Train=[CELoss: {epsilom: 0.1}]", "did you mean 'epsilon'?"),
    ("Losses={}", "Losses: unknown section; did you mean 'Loss'?"),
    ("EMA.deacy=0.9", "did you mean 'decay'?"),
    ("Global.epochs=many", "Global.epochs: "),
    ("Global.device=tpu", "none of auto, cpu, gpu"),
    ("Global.task=clasification", "did you mean 'classification'?"),
    ("Global.use_dali=true", "Global.use_dali"),
    ("Global", "expected key=value"),
]


@pytest.mark.parametrize(("change", "clue"), UNKNOWN_KEYS)
def test_wrong_keys_and_values(change: str, clue: str, images: Path, tmp_path: Path, fails: Fails) -> None:
    given = overrides(
        f"Global.data_root={images}",
        f"Global.output_dir={tmp_path / 'out'}",
        "Global.image_shape=[3,32,32]",
        "DataLoader.Train.sampler.batch_size=4",
        change,
    )
    assert clue in fails("train", "-c", "my_images", *given, lines=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["my_images", "det/my_coco", "seg/my_masks"])
def test_data_that_are_not_there(config: str, tmp_path: Path, fails: Fails) -> None:
    out = f"Global.output_dir={tmp_path / 'out'}"
    assert "Global.data_root is missing" in fails("train", "-c", config, "-o", out)
    gone = tmp_path / "gone"
    message = fails("train", "-c", config, *overrides(out, f"Global.data_root={gone}"))
    assert message.endswith(f"Global.data_root {gone}: no such folder")


def test_configs_that_cannot_be_read(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "bad.yaml").write_text("Global:\n  epochs: [1\n")
    assert "line" in fails("train", "-c", tmp_path / "bad.yaml")
    assert "no such file; did you mean 'PPLCNet_x1_0'?" in fails("train", "-c", "PPLCNet_x1_00")
    assert "not a run folder" in fails("train", "-c", tmp_path)
    assert "no latest.safetensors there" in fails("train", "--resume", tmp_path / "nothing")


def test_a_run_is_started_or_resumed_not_both(tmp_path: Path, fails: Fails) -> None:
    assert "train needs a config (-c FILE) or a run folder" in fails("train")
    assert "leave -c out" in fails("train", "-c", "my_images", "--resume", tmp_path)


def test_each_process_of_a_job_gets_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr(train, "run_job", lambda *job: jobs.append(job) or 0)
    given = ["-c", "my_images", *overrides(f"Global.output_dir={tmp_path}", "Global.epochs=3")]
    assert main(["train", "--nproc", "3", *given]) == 0
    ((processes, command, logs, prefix),) = jobs
    assert processes == 3
    assert command[-len(given) - 1 :] == ["train", *given]
    assert logs == tmp_path / "my_images" / "log"
    assert prefix == "pplcnet train: "
