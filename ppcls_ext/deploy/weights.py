"""Predict with the weights of a config or run folder, which dygraph runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.core.config import Config
from ppcls_ext.deploy.infer import check_infer_flags
from ppcls_ext.deploy.trained import build_with_weights, dygraph_outputs
from ppcls_ext.runtime.inference import build_inference
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.tasks.deployment import Deployment
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task


def open_weights(config: Config, options: Mapping[str, Any], batch: int = 1) -> Pipeline:
    """Predicts with the weights of a config or run folder, by dygraph."""
    task = make_task(config)
    deployment = task.deployment(build_with_weights(task, "infer"))
    return open_deployment(task, deployment, options, batch)


def open_deployment(task: Task, deployment: Deployment, options: Mapping[str, Any], batch: int = 1) -> Pipeline:
    """Predicts with a network in dygraph."""
    check_infer_flags(task.name, options)
    deployment.model.eval()
    fixed = deployment.inputs[0].shape[0]
    return Pipeline(
        lambda: lambda inputs: dygraph_outputs(deployment.model, inputs),
        build_inference(task.name, deployment.recipe, options),
        batch=batch if fixed == -1 else fixed,
        fixed=fixed != -1,
        engine="dygraph",
        errors="keep",
    )
