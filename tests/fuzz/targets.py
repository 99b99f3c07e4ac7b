"""A function for each reader: whatever it is given, it gives a value or raises UserError, whose text shows as one line.

`TARGETS` has them by name. Each is a test of hypothesis; `from_bytes` makes it a function of bytes, for any fuzzer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from det.splits import check_coco, read_coco
from ppcls_ext.cls.network import build_losses
from ppcls_ext.cls.splits import read_list
from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import Config, dump_config, load_config, override
from ppcls_ext.core.images import read_rgb
from ppcls_ext.data.lists import check_class_name, read_class_names
from ppcls_ext.data.transforms import build_transforms, resolve_sizes
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import RECIPE, read_exported
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from seg.masks import Rules, read_mask
from seg.splits import read_pairs
from tests.fuzz import inputs
from tests.fuzz.checks import folder, only_user_errors, written
from tests.fuzz.service import SERVICE
from tests.fuzz.stored import STORED
from tests.helpers.configs import config_of

CONFIG = config_of(Path("data"), Path("output"))
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10.5, 10], "area": 100, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}],
}
RECIPE_CONTENT = {
    "task": "classification",
    "formats": {"json": FORMATS["json"][0]},
    "inputs": [{"name": "x", "shape": [-1, 3, 32, 32], "dtype": "float32"}],
    "labels": ["a", "b"],
    "preprocess": {"transforms": [{"ResizeImage": {"size": [32, 32]}}]},
    "postprocess": {"topk": 2},
}


def understand(config: Config) -> None:
    """Build from a config what needs neither data nor memory."""
    task = Classification(config)
    for split in task.data.loaders:
        ops = task.data.loaders[split].dataset.transform_ops or []
        build_transforms(resolve_sizes(ops, task.global_section.image_shape), f"DataLoader.{split}")
    build_losses((config.get("Loss") or {}).get("Train"), "Loss.Train")
    section = config.get("Optimizer")
    build_optimizer(section, nn.Linear(2, 1), build_schedule(lr_of(section), 3, 5, 8))
    dump_config(config)


@given(inputs.yaml_texts(CONFIG))
def config_file(content: bytes) -> None:
    with only_user_errors():
        understand(load_config(written("config.yaml", content)))


PLACES = [
    *(
        "Global",
        "Arch",
        "Loss",
        "Optimizer",
        "DataLoader",
        "Infer",
        "Export",
        "Expect",
        "EMA",
        "Train",
        "Eval",
        "0",
        "1",
    ),
    *(
        "dataset",
        "transform_ops",
        "RandCropImage",
        "size",
        "scale",
        "lr",
        "name",
        "learning_rate",
        "warmup_epoch",
        "\u00b2",
    ),
    *("regularizer", "coeff", "sampler", "batch_size", "CELoss", "weight", "PostProcess", "topk", "seed", "epochs", ""),
]


@given(
    st.lists(st.one_of(st.sampled_from(PLACES), inputs.texts), min_size=1, max_size=5),
    st.one_of(inputs.odd.map(lambda value: inputs.dumped(value).decode(errors="surrogateescape")), inputs.texts),
)
def config_override(places: list[str], value: str) -> None:
    with only_user_errors():
        config = Config(copy.deepcopy(CONFIG))
        config.path = Path("config.yaml")
        override(config, f"{'.'.join(places)}={value}")
        understand(config)


LINES = st.lists(
    st.one_of(
        st.sampled_from(["a.png 0", "b c.png 1", "a.png\tb.png", "0 cat", "1 dog", "x 1000000000", "y \u00b2"]),
        inputs.texts,
    ),
    max_size=6,
)


@given(
    st.one_of(LINES.map(lambda lines: "\n".join(lines).encode(errors="surrogatepass")), st.binary(max_size=64)),
    st.one_of(st.none(), st.sampled_from([" ", "\t", ",", "ab"])),
    st.one_of(st.none(), st.integers(1, 5)),
)
def list_file(content: bytes, delimiter: str | None, count: int | None) -> None:
    path = written("lists/list.txt", content)
    for read in (
        lambda: read_list(path, folder(), delimiter, None, count),
        lambda: read_list(path, folder(), delimiter, None, count, unlabelled=True),
        lambda: read_pairs(path, folder(), delimiter),
        lambda: read_class_names(path),
    ):
        with only_user_errors():
            read()


@given(st.lists(inputs.texts, min_size=1, max_size=5))
def class_names(names: list[str]) -> None:
    with only_user_errors():
        for name in names:
            check_class_name(name, f"'{name}'")
        path = written("labels.txt", "".join(f"{name}\n" for name in names).encode())
        assert path.read_text(encoding="utf-8").splitlines() == names  # as a run folder reads them back


@given(inputs.json_texts(COCO))
def coco_json(content: bytes) -> None:
    with only_user_errors():
        _, findings = check_coco(written("coco.json", content), folder(), "train", folder(), None)
        for severity in ("fatal", "left out", "warning"):
            assert all(len(line.splitlines()) == 1 for line in findings.lines(severity))
        read_coco(folder() / "coco.json", folder(), "train", folder(), None)


@given(inputs.image_files, st.one_of(st.none(), st.integers(2, 4)))
def mask_file(content: bytes, classes: int | None) -> None:
    with only_user_errors():
        mask = read_mask(written("mask.png", content), Rules(classes))
        assert mask.ndim == 2


@given(inputs.image_files)
def image_gate(content: bytes) -> None:
    with only_user_errors():
        image = read_rgb(written("image.png", content))
        assert image.ndim == 3


@given(inputs.yaml_texts(RECIPE_CONTENT))
def recipe(content: bytes) -> None:
    with only_user_errors():
        read_exported(written(f"exported/{RECIPE}", content).parent)


GIVEN = (config_file, config_override, list_file, class_names, coco_json, mask_file, image_gate, recipe)
TARGETS: dict[str, Callable[..., None]] = {target.__name__: target for target in (*GIVEN, *STORED, *SERVICE)}


def from_bytes(name: str) -> Callable[[bytes], object]:
    """A target as a function of bytes, from which its input is drawn; what any fuzzer calls."""
    run: Callable[[bytes], object] = TARGETS[name].hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    return run


def raw(name: str) -> Callable[..., None]:
    """A target without what draws its input, for an input that is kept."""
    run: Callable[..., None] = TARGETS[name].hypothesis.inner_test  # type: ignore[attr-defined]
    return run
