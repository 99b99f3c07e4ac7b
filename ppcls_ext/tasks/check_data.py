"""`pplcnet check-data`: the report on a config's data."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.core.config import Config
from ppcls_ext.core.display import complain, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pictures import contact_sheet, save_image
from ppcls_ext.data.faults import SHOWN
from ppcls_ext.tasks.finding import make_task


def check_data(config: Config, picture: Path | None = None) -> int:
    """Show the report on a config's data; gives the number of errors.

    Args:
        picture: where to write a picture of samples.
    """
    report = make_task(config).check_data()
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
    return len(report.errors)
