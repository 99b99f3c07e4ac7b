"""Every workaround for Paddle and its suites: a module for each, a function for each workaround.

Each says what breaks, in which version, and when it can go. Nothing here knows anything of this product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppcls_ext.upstream import paddle, paddleclas, paddledet, paddleseg
from ppcls_ext.upstream.imports import Around, Repair, repair_on_import

# Module name -> what to do right after its import.
REPAIRS: Mapping[str, Repair] = {
    "ppcls.utils.logger": paddleclas.give_ppcls_a_logger,
    "ppcls.data.preprocess.ops.autoaugment": paddleclas.give_autoaugment_np_int,
    "ppcls.loss.celoss": paddleclas.take_soft_labels_as_they_are,
    "ppdet.utils.logger": paddledet.give_ppdet_plain_loggers,
    "ppdet.modeling.ops": paddledet.let_ppdet_nms_into_pir,
    "ppdet.modeling.losses.gfocal_loss": paddledet.let_quality_focal_loss_promote,
    "paddleseg.models.losses.cross_entropy_loss": paddleseg.average_paddleseg_cross_entropy_in_floats,
}

# Module name -> what it is imported within.
AROUND: Mapping[str, Around] = {"paddle": paddle.sigterm_kept}

# Module name -> what it imports and need not load before it is used.
LATER: Mapping[str, Sequence[str]] = {**paddleclas.LATER, **paddledet.LATER, **paddleseg.LATER}


def install(more: Mapping[str, Repair]) -> None:
    """Switch on what must be in place before Paddle or a suite is imported. Imports neither; safe to repeat.

    Args:
        more: what else to do right after a module's import, by the module's name.
    """
    paddle.silence_paddle_warnings()
    paddle.let_mkl_use_avx2()
    paddleclas.find_ppcls()
    repair_on_import({**REPAIRS, **more}, LATER, AROUND)
