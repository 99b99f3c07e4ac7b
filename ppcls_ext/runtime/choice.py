"""Which engine runs an exported model where the caller names none."""

from __future__ import annotations

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.exported import Exported

# The first of these that is installed, and whose format is in the folder.
PREFERRED = ("onednn", "onnxruntime", "openvino-onnx")


def choose_engine(exported: Exported, engine: str | None) -> tuple[str, str]:
    """Name of an engine and the model format that it is to run.

    Args:
        engine: the caller's choice; None takes the first of `PREFERRED` that can run here.
    Raises:
        UserError: an engine that is unknown, not installed, or without a format in this folder.
    """
    if engine is not None:
        kind = engine_class(engine)
        kind.require()
        for model_format in kind.formats:
            if model_format in exported.formats:
                return engine, model_format
        raise UserError(
            f"exported model {exported.folder}: engine {engine} runs {' or '.join(kind.formats)}, and the folder has "
            f"{', '.join(exported.formats)}; export again with pplcnet export --formats all"
        )
    for name in PREFERRED:
        kind = engine_class(name)
        usable = [f for f in kind.formats if f in exported.formats]
        if usable and kind.installed():
            return name, usable[0]
    extras = {engine_class(name).extra for name in ENGINES if set(engine_class(name).formats) & set(exported.formats)}
    ways = " or ".join(f"'pplcnet[{extra}]'" for extra in sorted(extras))
    raise UserError(f"exported model {exported.folder}: no engine for it is installed; python -m pip install {ways}")
