"""Builds the package. requirements.lock, not this file, installs everything the project runs with.

The requirements here are those of production: `pip install pplcnet[onnxruntime]` predicts with exported models. The
suites are in none of the extras: their published pins contradict each other (requirements-overrides.txt says how), so
no resolver accepts them. `make demo` or `make test` makes .venv from the lock; without make:

    python -m pip install --require-hashes --no-deps -r requirements.lock
    python -m pip install --no-deps --no-build-isolation -e .
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Builds are started from other folders too, so paths hang on this file.
ROOT = Path(__file__).resolve().parent
PADDLE = "paddlepaddle>=3.0,<3.3"
COMMAND_LINE = ["pydantic>=2", "rich"]
PILLOW = "pillow>=10.1"  # the first whose own font has sizes
CONFIGS = "configs"  # here in the checkout, <site-packages>/ppcls_ext/configs in the wheel


def version() -> str:
    text = (ROOT / "ppcls_ext" / "core" / "version.py").read_text(encoding="utf-8")
    match = re.search(r"""^__version__(?:\s*:\s*\w+)?\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    if match is None:
        raise SystemExit('ppcls_ext/core/version.py has no line __version__ = "..."')
    return match[1]


def readme() -> str:
    """The README with the places of links into the checkout written out: they lead nowhere on a package index."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""

    def written_out(link: re.Match[str]) -> str:
        picture, label, place = link.groups()
        file = place.partition("#")[0]
        if picture:
            return f"(In the source: {file})"
        return label if label == file else f"{label} ({file})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+://)([^)]*)\)", written_out, text)


def doc_files() -> list[str]:
    """What the README leads to, for an sdist."""
    pages = [
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*"),
        *(ROOT / "results").rglob("*"),
    ]
    return sorted(p.relative_to(ROOT).as_posix() for p in pages if p.is_file())


def config_files() -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / CONFIGS).rglob("*.y*ml") if p.is_file())


class BuildPy(build_py):
    """Also puts configs/ into the wheel, inside ppcls_ext."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # an editable install reads the checkout's own configs/
            return
        target = Path(self.build_lib) / "ppcls_ext" / CONFIGS
        shutil.rmtree(target, ignore_errors=True)  # a file deleted since the last build must not come back
        for name in config_files():
            path = target.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, path)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = list(super().get_outputs(include_bytecode))
        if not self.editable_mode:
            outputs += [str(Path(self.build_lib) / "ppcls_ext" / name) for name in config_files()]
        return outputs

    def get_source_files(self) -> list[str]:  # what an sdist takes along
        return [*super().get_source_files(), *config_files(), *doc_files()]


setup(
    name="pplcnet",
    version=version(),
    description="PP-LCNet for PaddlePaddle: classification, detection and segmentation on the CPU",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The PP-LCNet toolkit authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["ppcls_ext", "ppcls_ext.*", "det", "det.*", "seg", "seg.*"]),
    package_data={
        "ppcls_ext": ["py.typed", "paper/tables/*.yaml", "paper/report/templates/*", "serve/page.html"],
        "det": ["py.typed"],
        "seg": ["py.typed"],
    },
    cmdclass={"build_py": BuildPy},
    # What runs an exported model. Training is an extra, loose and without the suites: see the top of this file.
    install_requires=[
        "numpy>=1.26,<2.4",
        "opencv-python-headless>=4.10,<4.13",
        "pyyaml>=6",
    ],
    extras_require={
        "onnxruntime": ["onnxruntime>=1.20"],
        "openvino": ["openvino>=2025.0"],
        "paddle": [PADDLE, "setuptools<81"],
        "cli": COMMAND_LINE,  # what `pplcnet infer` needs beside an engine
        "parquet": ["pyarrow>=14"],
        "draw": [PILLOW],  # pictures of results
        "ray": ["ray[data]>=2.60,<2.64", *COMMAND_LINE],  # its checkpoints are what `infer --ray` resumes by
        "serve": [
            "uvicorn>=0.40",
            "starlette>=1.0",
            "python-multipart>=0.0.20",
            "prometheus-client>=0.21",
            PILLOW,  # drawn pictures
            *COMMAND_LINE,
        ],
        "train": [
            PADDLE,
            "setuptools<81",
            "protobuf<7",
            PILLOW,
            "matplotlib",
            "scipy",
            "scikit-learn",
            "pydantic>=2",
            "typing-extensions",
            "safetensors",
            "rich",
            "psutil",
            "jinja2",
            "numba",
            "threadpoolctl",
        ],
    },
    entry_points={
        "console_scripts": ["pplcnet = ppcls_ext.cli.start:main"],
        "pplcnet.inference": [
            "classification = ppcls_ext.cls.inference:ClassificationInference",
            "detection = det.inference:DetectionInference",
            "segmentation = seg.inference:SegmentationInference",
        ],
        "pplcnet.tasks": [
            "classification = ppcls_ext.cls.task:Classification",
            "detection = det.task:Detection",
            "segmentation = seg.task:Segmentation",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
    ],
)
