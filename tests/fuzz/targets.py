"""A function for each reader: whatever it is given, it gives a value or raises UserError, whose text shows as one line.

`TARGETS` has them by name. Each is a test of hypothesis; `from_bytes` makes it a function of bytes, for any fuzzer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from paddle import nn
from starlette.datastructures import Headers

from det.splits import check_coco, read_coco
from ppcls_ext.cls.network import build_losses
from ppcls_ext.cls.splits import read_list
from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import Config, dump_config, load_config, override
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import read_rgb
from ppcls_ext.core.text import LONGEST_SHOWN, one_line
from ppcls_ext.data.lists import check_class_name, read_class_names
from ppcls_ext.data.transforms import build_transforms, resolve_sizes
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import RECIPE, read_exported
from ppcls_ext.serve.bodies import images_of
from ppcls_ext.serve.limits import Limits, Refusal
from ppcls_ext.serve.protocol import read_request, write_answer
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from seg.masks import Rules, read_mask
from seg.splits import read_pairs
from tests.fuzz import inputs
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


@functools.cache
def folder() -> Path:
    """Where inputs are written; removed at the end of the process."""
    kept = tempfile.TemporaryDirectory(prefix="pplcnet-fuzz-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def written(name: str, content: bytes) -> Path:
    """A file with this content."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def only_user_errors() -> Iterator[None]:
    """Lets UserError pass, and a service's refusal of what a client sent, if the text shows as one line that a terminal
    does not obey; any other error is a fault.
    """
    try:
        yield
    except (UserError, Refusal) as error:
        status = 400
        if isinstance(error, Refusal):
            status = error.status
            error.text.encode()  # as its answer has to
        assert status in range(400, 500)
        shown = one_line(error)
        assert shown.strip(), "an error without a text"
        assert len(shown) <= LONGEST_SHOWN * 10 + 40
        assert len(shown.splitlines()) == 1
        shown.encode()


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


PNG = inputs.image_file("PNG", "L")
INFER_REQUESTS = [
    {
        "id": "7",
        "parameters": {"timeout": 1000, "binary_data_output": True},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PNG).decode()]}],
        "outputs": [{"name": "result", "parameters": {"binary_data": True}}],
    },
    {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [[[[1, 2, 3]], [[4, 5, 255]]]]}]},
]
BINARY_REQUEST = {
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 2 * len(PNG) + 8}}
    ]
}
ELEMENTS = 2 * (struct.pack("<I", len(PNG)) + PNG)


@given(
    st.one_of(*(inputs.json_texts(content) for content in INFER_REQUESTS), inputs.json_texts(BINARY_REQUEST)),
    st.one_of(st.just(b""), inputs.damaged(ELEMENTS)),
    st.one_of(st.none(), inputs.texts, st.integers(-1, 999).map(str)),
)
def infer_request(head: bytes, binary: bytes, length: str | None) -> None:
    """A request of the open inference protocol; its answer has to be writable, whatever the client calls it."""
    for stated in (length, str(len(head))):
        with only_user_errors():
            asked = asyncio.run(read_request(head + binary, stated, Limits()))
            assert 1 <= len(asked.images) <= Limits().images
            write_answer(asked, "a", [{"source": ""}] * len(asked.images))
            for image in asked.images:
                with only_user_errors():
                    image.check(Limits().pixels)


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="i"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
    b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\nnone\r\n--x--\r\n' % PNG
)
KINDS = [
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=x; charset=utf-7",
    'multipart/form-data; boundary="x"',
    "image/png",
    "text/plain",
]


@given(
    st.one_of(
        inputs.json_texts({"images": [base64.b64encode(PNG).decode()]}),
        inputs.damaged(FORM),
        st.sampled_from([b"", FORM]),
    ),
    st.one_of(st.sampled_from(KINDS), st.sampled_from(KINDS).map(str.encode).flatmap(inputs.damaged)),
)
def predict_request(body: bytes, kind: str | bytes) -> None:
    """The body of `POST /predict`; the names in it have to be writable."""
    header = kind if isinstance(kind, bytes) else kind.encode()
    with only_user_errors():
        images, _ = asyncio.run(images_of(Headers(raw=[(b"content-type", header)]), body, Limits()))
        for image in images:
            (image.name or "").encode()
            with only_user_errors():
                image.check(Limits().pixels)


TARGETS: dict[str, Callable[..., None]] = {
    target.__name__: target
    for target in (
        *(config_file, config_override, list_file, class_names, coco_json, mask_file, image_gate, recipe),
        *(infer_request, predict_request),
    )
}


def from_bytes(name: str) -> Callable[[bytes], object]:
    """A target as a function of bytes, from which its input is drawn; what any fuzzer calls."""
    run: Callable[[bytes], object] = TARGETS[name].hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    return run


def raw(name: str) -> Callable[..., None]:
    """A target without what draws its input, for an input that is kept."""
    run: Callable[..., None] = TARGETS[name].hypothesis.inner_test  # type: ignore[attr-defined]
    return run
