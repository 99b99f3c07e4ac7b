"""Configs of classification that train on such sets in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.25] * 3, "order": ""}}


def config_of(data: Path, out: Path) -> dict[str, Any]:
    """A config that learns such a set in seconds; random crops and flips, so that a run has chance in it."""
    dataset: dict[str, Any] = {"name": "ImageFolder"}
    loader = {"num_workers": 0}
    return {
        "Global": {
            "device": "cpu",
            "epochs": 4,
            "image_shape": [3, 48, 48],
            "print_batch_step": 1,
            "output_dir": str(out),
            "data_root": str(data),
            "use_visualdl": False,
            "seed": 7,
        },
        "Arch": {"name": "PPLCNet_x0_25", "class_num": "auto", "dropout_prob": 0.1},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.02, "warmup_epoch": 1},
            "regularizer": {"name": "L2", "coeff": 1e-4},
        },
        "DataLoader": {
            "Train": {
                "dataset": {
                    **dataset,
                    "transform_ops": [
                        {"RandCropImage": {"size": "auto", "scale": [0.5, 1.0]}},
                        {"RandFlipImage": {"flip_code": 1}},
                        NORMALIZE,
                    ],
                },
                "sampler": {"batch_size": 8, "shuffle": True, "drop_last": False},
                "loader": loader,
            },
            "Eval": {
                "dataset": {**dataset, "transform_ops": [{"ResizeImage": {"size": "auto"}}, NORMALIZE]},
                "sampler": {"batch_size": 4},
                "loader": loader,
            },
        },
        "Infer": {"PostProcess": {"topk": 2}},
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.dump(config, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False))
    return path


def overrides(*assignments: str) -> list[str]:
    return [part for assignment in assignments for part in ("-o", assignment)]
