"""Which engine runs an exported model where the caller names none."""

from __future__ import annotations

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, HOW_TO_EXPORT
from ppcls_ext.runtime.exported import Exported

# The first of these that is installed, and whose format is in the folder.
PREFERRED = ("onednn", "onnxruntime", "openvino-onnx")


def choose_engine(exported: Exported, engine: str | None, allow_reduced: bool = False) -> tuple[str, str]:
    """Name of an engine and the model format that it is to run.

    Args:
        engine: the caller's choice; None takes the first of `PREFERRED` that can run here.
        allow_reduced: take an engine with reduced precision also where the export has not accepted it.
    Raises:
        UserError: an engine that is unknown, not installed, without a format in this folder, or not accepted.
    """
    if engine is not None:
        kind = engine_class(engine)
        kind.require()
        usable = [f for f in kind.formats if f in exported.formats]
        if not usable:
            how = "--formats all" if kind.precision == FLOAT else HOW_TO_EXPORT[kind.formats[0]]
            raise UserError(
                f"exported model {exported.folder}: engine {engine} runs {' or '.join(kind.formats)}, and the folder "
                f"has {', '.join(exported.formats)}; export again with pplcnet export {how}"
            )
        if not allow_reduced and not exported.accepts(kind):
            raise UserError(
                f"exported model {exported.folder}: engine {engine} computes in {kind.precision}, which this export "
                f"has not accepted; let pplcnet export -o Export.{kind.precision}=true try it, or run it all the same: "
                "infer --allow-reduced, Predictor(..., allow_reduced=True)"
            )
        return engine, usable[0]
    for name in PREFERRED:
        kind = engine_class(name)
        usable = [f for f in kind.formats if f in exported.formats]
        if usable and kind.installed() and exported.accepts(kind):
            return name, usable[0]
    extras = {engine_class(name).extra for name in ENGINES if set(engine_class(name).formats) & set(exported.formats)}
    ways = " or ".join(f"'pplcnet[{extra}]'" for extra in sorted(extras))
    raise UserError(f"exported model {exported.folder}: no engine for it is installed; python -m pip install {ways}")
