"""What to say about a run that starts from nothing."""

from __future__ import annotations

from ppcls_ext.tasks.task import Task

SMALL_SET = 20_000  # training images below which public weights help more than anything else does


def from_scratch(task: Task, images: int) -> str | None:
    """The line that names public weights, where a run on a small set starts without any; None elsewhere.

    Args:
        images: of the training split.
    """
    section = task.global_section
    if section.pretrained_model or section.checkpoints or images >= SMALL_SET:
        return None
    address = task.public_weights()
    if address is None:
        return None
    new_head = " -o Global.new_head=True" if task.public_needs_new_head else ""
    return (
        f"from scratch on {images} images: public weights would gain the most; fetch {address} and add "
        f"-o Global.pretrained_model={address.rsplit('/', 1)[-1]}{new_head}"
    )
