"""`ppcls_ext.core.config`: what a YAML file and its overrides mean, and that no key is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import Config, dump_config, find_config, load_config, merge, override, shipped_configs
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import one_line
from ppcls_ext.data.transforms import apply, build_transforms
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from ppcls_ext.upstream.paddleclas import ppcls
from tests.helpers.configs import config_of, overrides, write_config

SHIPPED = {name: file for name, file in shipped_configs().items() if file.parent.name == "configs"}


def lines(path: Path, *content: str) -> Path:
    path.write_text("\n".join(content) + "\n", encoding="utf-8")
    return path


# Reading


def test_a_base_is_merged_key_by_key(tmp_path: Path) -> None:
    lines(tmp_path / "b.yaml", "Global: {epochs: 5, seed: 1}", "Arch: {name: A, x: 1}", "Loss: [1, 2]")
    lines(tmp_path / "c.yaml", "_base_: b.yaml", "Global: {epochs: 7}", "Loss: [3]", "Arch: {name: B}")
    config = load_config(tmp_path / "c.yaml")
    assert (config.global_section.epochs, config.global_section.seed) == (7, 1)
    assert config["Loss"] == [3]  # lists are replaced
    assert config["Arch"] == {"name": "B", "x": 1}
    assert config.path == tmp_path / "c.yaml"
    assert "_base_" not in config


@pytest.mark.parametrize("word", ["_replace_", "_delete_"])
def test_replace_leaves_nothing_of_the_base(word: str, tmp_path: Path) -> None:
    lines(tmp_path / "b.yaml", "Optimizer: {name: Momentum, momentum: 0.9, lr: {name: Step, gamma: 1.0}}")
    lines(tmp_path / "c.yaml", "_base_: b.yaml", f"Optimizer: {{{word}: true, name: Adam}}", f"EMA: {{{word}: true}}")
    config = load_config(tmp_path / "c.yaml")
    assert config["Optimizer"] == {"name": "Adam"}
    assert config["EMA"] == {}  # the base has no such section
    config = load_config(tmp_path / "b.yaml", [f"Optimizer={{{word}: true, name: Adam}}"])
    assert config["Optimizer"] == {"name": "Adam"}


def test_several_bases_apply_in_order_and_from_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    lines(tmp_path / "deep" / "root.yaml", "Global: {epochs: 1, seed: 1}")
    lines(tmp_path / "deep" / "a.yaml", "_base_: root.yaml", "Global: {epochs: 2}")
    lines(tmp_path / "b.yaml", "Global: {seed: 3}")
    lines(tmp_path / "c.yaml", "_base_: [deep/a.yaml, b.yaml]", "Arch: {name: X}")
    config = load_config(tmp_path / "c.yaml")
    assert (config.global_section.epochs, config.global_section.seed) == (2, 3)


def test_merging_shares_nothing_with_its_arguments() -> None:
    base, change = {"a": {"b": [1]}}, {"a": {"c": [2]}}
    merged = merge(base, change)
    merged["a"]["b"].append(9)
    merged["a"]["c"].append(9)
    assert (base, change) == ({"a": {"b": [1]}}, {"a": {"c": [2]}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E+2", 300.0),
        ("-.5e1", -5.0),
        ("1.0e-5", 1e-5),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ('"[0.1, 0.2]"', [0.1, 0.2]),
        ('"(1, 2)"', (1, 2)),
        ('"True"', True),
        ('"None"', None),
        ('"[not python"', "[not python"),
        ("1.0/255.0", "1.0/255.0"),
    ],
)
def test_values_are_read_as_their_writers_mean_them(text: str, value: Any, tmp_path: Path) -> None:
    config = load_config(lines(tmp_path / "c.yaml", f"X: {{y: [{text}]}}"))
    assert config["X"]["y"] == [value]
    assert type(config["X"]["y"][0]) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["Global:", "  epochs: 1", " seed: 2"], r"c.yaml, line 3: not valid YAML"),
        (["Global: {epochs: 1", "Arch: x"], r"c.yaml, line [123]: not valid YAML"),
        (["- a list"], r"c.yaml: expected sections such as Global and Arch, got list"),
        ([""], r"c.yaml: expected sections such as Global and Arch, got NoneType"),
        (["Global: 3"], r"Global: expected keys and values"),
        (["Global: {epoch: 3}"], r"Global.epoch: unknown key; did you mean 'epochs'\?"),
        (["Global: {epochs: many}"], r"Global.epochs: .*integer.*got 'many'"),
        (["Global: {epochs: 0}"], r"Global.epochs: .*greater than or equal to 1.*got 0"),
        (["Global: {use_dali: true}"], r"Global.use_dali: True is not supported"),
        (["_base_: none.yaml"], r"_base_ none.yaml: no such file beside it"),
        (["_base_: c.yaml"], r"_base_ comes back to itself \(c.yaml\)"),
        (["_base_: 3"], r"_base_"),
        (["_base_: [3]"], r"_base_"),
        (["X: !!python/object/apply:os.system ['exit 1']"], r"c.yaml, line 1: not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(content: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(lines(tmp_path / "c.yaml", *content))
    assert "\n" not in str(caught.value)


def test_a_loop_over_two_files_is_named(tmp_path: Path) -> None:
    lines(tmp_path / "a.yaml", "_base_: b.yaml")
    lines(tmp_path / "b.yaml", "_base_: a.yaml")
    with pytest.raises(UserError, match=r"_base_ comes back to itself \(a.yaml -> b.yaml\)"):
        load_config(tmp_path / "a.yaml")


def test_bases_above_each_other_are_bounded(tmp_path: Path) -> None:
    for k in range(100):
        lines(tmp_path / f"{k}.yaml", f"_base_: {k + 1}.yaml")
    with pytest.raises(UserError, match=r"0\.yaml: more than 30 configs to be based on"):
        load_config(tmp_path / "0.yaml")


def test_bases_that_double_are_not_read_without_end(tmp_path: Path) -> None:
    for k in range(25):
        lines(tmp_path / f"{k}.yaml", f"_base_: [{k + 1}.yaml, {k + 1}.yaml]")
    lines(tmp_path / "25.yaml", "Global: {epochs: 1}")
    with pytest.raises(UserError, match="more than 30 configs to be based on"):
        load_config(tmp_path / "0.yaml")


def test_keys_are_not_nested_without_end() -> None:
    with pytest.raises(UserError, match="more than 32 keys below each other"):
        override({"Global": {}}, "Global." + "a." * 2000 + "a=1")


def test_what_could_not_be_read_again_is_not_written() -> None:
    for value in ("caf\udce9", 2**64, "a\0b"):
        with pytest.raises(UserError, match=r"could not be read again \(.*\); give a folder or data of other names"):
            dump_config({"Global": {"data_root": value}})


@pytest.mark.parametrize(
    "text", ['["a\\0b"]', '["\\ud800"]', '[b"x"]', "[1j]", "[{1.5: 2}]", "[{3, 4}]", "[" * 40 + "]" * 40, "[1e999]"]
)
def test_a_literal_of_python_is_read_where_yaml_could_have_given_it(text: str) -> None:
    config = {"Arch": {"x": 1}}
    override(config, f"Arch.x='{text}'")
    assert config["Arch"]["x"] == text  # it stays the text that it is
    override(config, "Arch.x='[(1, 2.5), {\"a\": None}]'")
    assert config["Arch"]["x"] == [(1, 2.5), {"a": None}]


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00binary\x80")
    with pytest.raises(UserError, match=r"c.yaml: cannot be read"):
        load_config(tmp_path / "c.yaml")


def test_a_dumped_config_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config("PPLCNet_x1_0", ["Arch.name=Größe", "Optimizer.lr.learning_rate=1e-4"])
    (tmp_path / "d.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "d.yaml") == config


# Finding


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("configs/PPLCNet_x1_0.yaml", "PPLCNet_x1_0.yaml", "PPLCNet_x1_0", "configs/PPLCNet_x1_0"):
        assert find_config(name) == SHIPPED["PPLCNet_x1_0"]
    lines(tmp_path / "PPLCNet_x1_0.yaml", "Global: {}")
    assert find_config("PPLCNet_x1_0.yaml") == Path("PPLCNet_x1_0.yaml")  # one's own comes first
    with pytest.raises(UserError, match=r"config PPLCNet_1_0.yaml: no such file; did you mean 'PPLCNet_x1_0'\?"):
        find_config("PPLCNet_1_0.yaml")


@pytest.mark.slow
def test_a_run_folder_gives_its_config_and_best_weights(trained: Path, tmp_path: Path) -> None:
    config = load_config(trained)
    assert config.path == trained / "config.yaml"
    assert config.global_section.pretrained_model == str(trained / "best.pdparams")
    assert load_config(trained, ["Global.pretrained_model=x"]).global_section.pretrained_model == "x"
    with pytest.raises(UserError, match="not a run folder"):
        load_config(tmp_path)


# Overrides


def overridden(*assignments: str) -> dict[str, Any]:
    config = {
        "Global": {"epochs": 1},
        "Arch": None,
        "T": {"ops": [{"Resize": {"size": 1}}, {"Crop": None}, "Flip"], "mean": [1, 2]},
    }
    for assignment in assignments:
        override(config, assignment)
    return config


def test_overrides_set_and_make_keys() -> None:
    config = overridden("Global.epochs=5", "Arch.name=X", "New.deep.key=a=b", "Global.rate=1e-3", "Global.none=")
    assert config["Global"] == {"epochs": 5, "rate": 1e-3, "none": None}
    assert config["Arch"] == {"name": "X"}
    assert config["New"] == {"deep": {"key": "a=b"}}
    assert overridden("Global={epochs: 9}")["Global"] == {"epochs": 9}
    assert overridden("Global.epochs=[1, 2]", "Global.epochs.1=7")["Global"]["epochs"] == [1, 7]


def test_overrides_reach_into_lists_by_number_and_by_name() -> None:
    ops = overridden("T.mean.1=5", "T.ops.0.Resize.size=3")["T"]
    assert ops["mean"] == [1, 5]
    assert ops["ops"][0] == {"Resize": {"size": 3}}
    assert overridden("T.ops.Resize.size=4")["T"]["ops"][0] == {"Resize": {"size": 4}}
    assert overridden("T.ops.Crop.size=4")["T"]["ops"][1] == {"Crop": {"size": 4}}
    assert overridden("T.ops.Resize={size: 6}")["T"]["ops"][0] == {"Resize": {"size": 6}}
    assert overridden("T.ops.0={Other: {}}")["T"]["ops"][0] == {"Other": {}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("Global.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("Global.epochs.x=1", "Global.epochs is a value and has no keys"),
        ("Global.epochs.x.y=1", "Global.epochs is a value and has no keys"),
        ("T.ops.7.x=1", r"'7' is no place in a list of 3 \(Resize, Crop"),
        ("T.ops.Rezise.x=1", "'Rezise' is no place in a list of 3"),
        ("T.mean.-1=1", "'-1' is no place in a list of 2"),
        ("Global.epochs=[1", "'\\[1' is not a YAML value"),
        ("Global.epochs=!!python/name:os.system x", "is not a YAML value"),
    ],
)
def test_a_bad_override_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        overridden(assignment)
    assert str(caught.value).startswith(f"-o {assignment}: ")


# Every section has an owner that checks it


def at_start(config: Config) -> None:
    """All that is done with a config before the first step."""
    from ppcls_ext.training.trainer import Trainer

    Trainer(Classification(config)).start()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("Archs.name=x", r"^Archs: unknown section; did you mean 'Arch'\?$"),
        ("Arch.scales=1", r"Arch.scales: unknown key"),
        ("Arch.name=PPLCNet_x0_26", r"Arch.name: no network 'PPLCNet_x0_26'; did you mean 'PPLCNet_x0_"),
        ("Arch.class_num=many", "Arch.class_num: expected a number of classes or auto, got 'many'"),
        ("Loss.Train.0.CELoss.epsilom=1", r"Loss.Train.0.CELoss.epsilom: unknown key; did you mean 'epsilon'\?"),
        ("Loss.Train=[{CELos: {}}]", r"Loss.Train.0.CELos: no such loss; did you mean 'CELoss'\?"),
        ("Loss.Train=[]", "Loss.Train: give at least one loss"),
        ("Loss.Trian=[]", r"Loss.Trian: unknown .*'Train'"),
        ("Optimizer.momentun=1", r"Optimizer.momentun: unknown key; did you mean 'momentum'\?"),
        ("Optimizer.lr.warmup=1", r"Optimizer.lr.warmup: unknown key; did you mean 'warmup_epoch'\?"),
        ("DataLoader.Test={}", r"DataLoader.Test: unknown split"),
        ("DataLoader.Train.sampler.batchsize=1", r"DataLoader.Train.sampler.batchsize: unknown key; did you mean"),
        ("DataLoader.Train.loader.num_workers=-1", r"DataLoader.Train.loader.num_workers"),
        ("DataLoader.Train.dataset.root=x", "DataLoader.Train.dataset.root: unknown key; did you mean 'image_root'"),
        (
            "DataLoader.Train.dataset.transform_ops.RandFlipImage.flip=1",
            r"DataLoader.Train.dataset.transform_ops.1.RandFlipImage.flip: unknown key; did you mean 'flip_code'\?",
        ),
        ("Infer.transform=[]", r"Infer.transform: unknown key; did you mean 'transforms'\?"),
        ("Infer.PostProcess.top=1", r"Infer.PostProcess.top: unknown key; did you mean 'topk'\?"),
        ("Metric.Eval=[{Recall: {}}]", "Metric.Eval.0?.?Recall: not computed by this toolkit"),
        ("Distill.techer=x", r"Distill.techer: unknown key; did you mean 'teacher'\?"),
        (
            "DataLoader.Train.dataset.batch_transform_ops=[{MixupOperator: {alpha: -1}}]",
            "DataLoader.Train.dataset.batch_transform_ops.0.MixupOperator: .*greater than 0",
        ),
        ("Distill.teacher=3", r"^Distill.teacher: input should be a valid string, got 3$"),
        ("Global.freeze=conv1", r"Global.freeze: .*got 'conv1'; write it as a list, such as \[a, b\]"),
        ("Infer.infer_imgs=[1]", r"^Infer.infer_imgs"),
        ("EMA.decai=0.9", r"EMA.decai: unknown key; did you mean 'decay'\?"),
        ("Export.batches=1", r"Export.batches: unknown key; did you mean 'batch'\?"),
        ("Expect.top2={value: 1, tolerance: 1}", r"Expect.top2: not a metric of this task; did you mean 'top5'\?"),
    ],
)
def test_an_unknown_key_is_an_error_before_the_first_step(
    assignment: str, message: str, data: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "c.yaml", config_of(data, tmp_path / "out"))
    with pytest.raises(UserError, match=message) as caught:
        at_start(load_config(path, [assignment]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("Global.seed=5000000000", "Global.seed: input should be less than or equal to 4294967295"),
        ("Global.epochs=1000000", "Global.epochs: input should be less than or equal to 100000"),
        ("Global.image_shape=[3, 1, 100000]", "Global.image_shape.2: input should be less than or equal to 16384"),
        ("Global={data_root: .nan}", "is not a YAML value .*not finite"),
        ("Global.check_seconds='[1e999]'", "Global.check_seconds: input should be a valid number"),
        ("Optimizer.momentum=-1", "Optimizer.momentum: expected a number from 0 to 1, got -1"),
        ("Optimizer.momentum=1", "Optimizer.momentum: expected a number from 0 to 1, got 1"),
        ("Optimizer={name: SGD, weight_decay: -1, lr: 1}", "Optimizer.weight_decay: expected a number from 0 to 10"),
        ("Optimizer.regularizer.coeff=-1", "Optimizer.regularizer.coeff: expected a number from 0 to 10"),
        ("Optimizer.use_nesterov=3", "Optimizer.use_nesterov: expected true or false"),
        ("Optimizer.lr=5", "Optimizer.lr.learning_rate: expected a number above 0 and up to 4, got 5"),
        ("Optimizer.lr.learning_rate=5", "Optimizer.lr.learning_rate: expected a number above 0 and up to 4, got 5"),
        ("Optimizer.lr=0", "Optimizer.lr.learning_rate: expected a number above 0 and up to 4, got 0"),
        (
            "Optimizer.lr.learning_rate=0.0",
            "Optimizer.lr.learning_rate: expected a number above 0 and up to 4, got 0.0",
        ),
        (
            "Optimizer.lr={name: Piecewise, decay_epochs: [1], values: [0, 0.0]}",
            r"Optimizer.lr.values: expected a learning rate above 0 among them, got \[0, 0.0\]",
        ),
        (
            "Optimizer.lr={learning_rate: 4, base_batch_size: 1}",
            "learning_rate, scaled to the batch: expected a number",
        ),
        ("Optimizer.lr.warmup_epoch=-1", "Optimizer.lr.warmup_epoch: expected a number from 0 to"),
        ("DataLoader.Train.dataset.transform_ops.RandCropImage.scale=[5, 9]", r"RandCropImage.scale: .*0 .*1, got 5"),
        ("DataLoader.Train.dataset.transform_ops.RandCropImage.size=100000", "RandCropImage.size: .* from 1 to 16384"),
        ("DataLoader.Train.dataset.transform_ops.0.RandAugment.num_layers=1e9", "expected one operation"),
        ("DataLoader.Train.dataset.transform_ops.2.NormalizeImage.std=[1, 0, 1]", "std: expected a number above 0"),
        (
            "DataLoader.Train.dataset.transform_ops.2.NormalizeImage.order=cwh",
            "order: expected one of '', 'hwc', 'chw'",
        ),
        ("DataLoader.Eval.dataset.transform_ops=[{CropImage: {size: 99}}]", "a crop of 99x99 is larger than the image"),
        ("DataLoader.Train.dataset.delimiter=''", "delimiter: string should have at least 1 character"),
        ("DataLoader.Train.sampler.batch_size=1000000", "batch_size: input should be less than or equal to 65536"),
        ("Loss.Train.CELoss.weight=-1", r"Loss.Train.0.CELoss.weight: expected a number from 0 to 10000, got -1"),
        ("Loss.Train=[{TripletLossV2: {}}]", "TripletLossV2: it cannot be computed from logits and labels"),
        ("Arch.class_num=1000000", "Arch.class_num: .*; at most 100000"),
        ("Arch.name=[a]", r"Arch.name: expected the name of a network, got \['a'\]"),
        ("Arch={name: PPLCNet, class_num: auto, scale: 1e9}", "Arch.scale: expected a number above 0 and up to 16"),
        ("Arch={name: ResNet18, class_num: auto, scale: 2}", "Arch.scale: unknown key"),
        ("Arch.return_stages=abc", "return_stages must be true, a number or a list"),
        ("DataLoader.Train.dataset.transform_ops.\u00b2.size=3", "is no place in a list of 3"),
    ],
)
def test_what_no_run_can_use_is_refused_before_the_first_step(
    assignment: str, message: str, data: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "c.yaml", config_of(data, tmp_path / "out"))
    with pytest.raises(UserError, match=message) as caught:
        at_start(load_config(path, [assignment]))
    assert len(one_line(caught.value).splitlines()) == 1


def test_an_empty_global_section_has_its_defaults(data: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", config_of(data, tmp_path / "out"))
    assert load_config(path, ["Global=null"]).global_section.epochs == 1
    assert load_config(lines(tmp_path / "d.yaml", "Global:")).global_section.epochs == 1


SECTIONS = ["Arch", "Loss", "Loss.Train", "Optimizer", "Optimizer.lr", "DataLoader", "DataLoader.Train", "Infer"]
SECTIONS += ["DataLoader.Train.dataset", "DataLoader.Train.dataset.transform_ops", "Metric", "Metric.Eval", "EMA"]
SECTIONS += ["Optimizer.regularizer", "Optimizer.lr.learning_rate", "Optimizer.momentum", "Export", "Expect"]


@pytest.mark.parametrize("value", ["text", "[1]", "{a: {b: 1}}", "true"])
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_of_the_wrong_kind_is_a_user_error(section: str, value: str, data: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", config_of(data, tmp_path / "out"))
    if value == "true" and section in ("Optimizer.momentum", "Optimizer.lr", "Optimizer.lr.learning_rate"):
        value = "{}"  # Python takes true for 1 there
    with pytest.raises(UserError, match=section.split(".")[0]) as caught:
        at_start(load_config(path, [f"{section}={value}"]))
    assert "\n" not in str(caught.value)


# The configs that come with the package


def test_a_shipped_config_of_a_network_is_named_after_it() -> None:
    networks = set(SHIPPED) - {"demo", "my_images"}
    assert networks
    for name in networks:
        assert load_config(name)["Arch"]["name"] == name.partition("_ssld")[0]


PADDLECLAS = (Path(__file__).parent / "paddleclas.yaml").read_text()


@pytest.mark.slow
def test_a_standard_paddleclas_config_is_accepted_unchanged(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "dataset" / "ILSVRC2012"
    root.mkdir(parents=True)
    for split in ("train", "val"):
        files = sorted((data / split).rglob("*.png"))[:3]
        lines(root / f"{split}_list.txt", *(f"{f} {998 - k}" for k, f in enumerate(files)))
    config = load_config(lines(tmp_path / "theirs.yaml", PADDLECLAS))
    task = Classification(config)
    assert task.class_num == 1000
    assert len(task.labels()) == 1000
    assert task.labels()[1].startswith("goldfish")  # the map ships with PaddleClas, and is found there
    assert task.build_model().spec.scale == 1.0
    assert task.data.train_split.labels.tolist() == [998, 997, 996]
    (batch,) = task.eval_loader().epoch()
    assert batch[0].shape == [3, 3, 224, 224]
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3)).astype(np.uint8)
    assert apply(image, build_transforms(task.preprocessing(), "Infer.transforms")).shape == (3, 224, 224)
    schedule = build_schedule(lr_of(config["Optimizer"]), config.global_section.epochs, 2503, 512)
    build_optimizer(config["Optimizer"], task.build_model(), schedule)
    assert task.step(task.build_model(), [batch[0], batch[1]]).losses["loss"].ndim == 0


def test_the_standard_config_is_paddleclas_own() -> None:
    """PaddleClas's own builders accept what the test above reads."""
    theirs = yaml.safe_load(PADDLECLAS)
    assert ppcls("arch").build_model(theirs) is not None
    data = ppcls("data")
    for ops in (theirs["DataLoader"][split]["dataset"]["transform_ops"] for split in ("Train", "Eval")):
        assert len(data.create_operators(ops)) == 4
    assert len(data.create_operators(theirs["Infer"]["transforms"])) == 5


def test_the_command_line_passes_overrides_on(fails: Callable[..., str], data: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", config_of(data, tmp_path / "out"))
    assert "Global.epoch: unknown key" in fails("train", "-c", path, *overrides("Global.seed=1", "Global.epoch=2"))
