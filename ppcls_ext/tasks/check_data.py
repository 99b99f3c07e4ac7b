"""`pplcnet check-data`: the report on a config's data."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from ppcls_ext.core.bounds import mapping
from ppcls_ext.core.config import Config
from ppcls_ext.core.display import complain, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pictures import contact_sheet, save_image
from ppcls_ext.data.faults import SHOWN
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.splits import SPLIT_NAMES
from ppcls_ext.tasks.task import Task

SPEED_SECONDS = 15.0  # each of the two passes of `show_speed` takes at most this long


def check_data(config: Config, picture: Path | None = None, speed: bool = False) -> int:
    """Show the report on a config's data; gives the number of errors.

    Args:
        picture: where to write a picture of samples.
        speed: also show how many images a second the loader of the training split prepares, if there is no error.
    Raises:
        UserError: a config without data.
    """
    splits = set(mapping(config.get("DataLoader"), "DataLoader")) & set(SPLIT_NAMES)
    if not splits:
        raise UserError("DataLoader has neither Train nor Eval; give a config with data to look through")
    task = make_task(config)
    report = task.check_data()
    if "Train" in splits and not report.errors:
        try:
            task.train_loader()  # such as a batch that is larger than the set
        except UserError as error:
            report.error(f"Train: {error}")
    for title, columns, rows in report.tables:
        show_table(title, columns, rows)
    for kind, style, findings in (("error", "red", report.errors), ("warning", "yellow", report.warnings)):
        for text in findings[:SHOWN]:
            complain(f"{kind}: {text}", style)
        if len(findings) > SHOWN:
            complain(f"{kind}: ... and {len(findings) - SHOWN} more", style)
    if picture is not None:
        if not report.samples:
            raise UserError("check-data: no image could be read, so there is no picture to write")
        save_image(picture, contact_sheet(report.samples, max(4, 900 // report.cell), report.cell))
        say(f"picture: {picture}")
    say(f"{len(report.errors)} errors, {len(report.warnings)} warnings")
    if speed and not report.errors:
        show_speed(task)
    return len(report.errors)


def show_speed(task: Task) -> None:
    """Show the images a second of the training loader alone, in a first pass over its images and in a second one.

    The second is faster where decoded images are kept in memory. A training step never waits for data if the network
    takes fewer images a second than the workers prepare beside it.
    """
    loader = task.train_loader()
    rows = []
    for name in ("first epoch", "later epochs"):
        images, began = 0, time.monotonic()
        with contextlib.closing(loader.epoch(0)) as batches:  # the same images both times
            for batch in batches:
                images += len(batch[0])
                if time.monotonic() - began > SPEED_SECONDS:
                    break
        rows.append((name, images, round(images / (time.monotonic() - began), 1)))
    workers = loader.workers.count()
    show_table(f"the training loader alone, {workers} workers", ("pass", "images", "images/s"), rows)
