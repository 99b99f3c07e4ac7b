"""The report of `pplcnet reproduce`: from its raw values to HTML and Markdown. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jinja2

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.models.counting import RULE
from ppcls_ext.paper.report.cells import FIELDS, ComparedTable, Document, compared_table, counts_of
from ppcls_ext.paper.report.figure import draw_figure
from ppcls_ext.paper.report.findings import Agreement, agreements_of, findings_of, listed, missing_of
from ppcls_ext.paper.tables import procedure
from ppcls_ext.paper.verdicts import RATIO_BOUND, STATUSES, TIE

FIGURE = "figure1.svg"


class View(NamedTuple):
    """All that the templates show."""

    document: Document
    machine: list[tuple[str, str]]
    counts: list[tuple[str, dict[str, int]]]  # cells of each kind by status
    agreements: list[Agreement]
    agrees: list[str]
    differs: list[str]
    missing: list[str]
    parts: list[ComparedTable]
    figure: str | None  # SVG
    rules: list[str]


def view_of(document: Document) -> View:
    """Everything that the page shows of a document."""
    parts = [compared_table(document, number) for number in document["tables"]]
    agreements = [agreement for part in parts for agreement in agreements_of(document, part)]
    findings = list(findings_of(document, parts, agreements))
    environment = document["environment"]
    reports = [b["report"] for b in document["benchmarks"] if "report" in b]
    machine = reports[-1]["machine"] if reports else {"cpu": environment["cpu"], "platform": environment["platform"]}
    machine = {key: value for key, value in machine.items() if value is not None}
    # Resumed reports have values of several commands.
    commands = dict.fromkeys(report["command"] for report in reports) or {environment["command"]: None}
    times = sorted(report["created"] for report in reports) or [document["created"]]
    shown = [("command", "; ".join(commands)), ("measured", " to ".join(dict.fromkeys([times[0], times[-1]])))]
    shown += [(key.replace("_", " "), listed(v) if isinstance(v, list) else str(v)) for key, v in machine.items()]
    versions = {"pplcnet": environment["pplcnet"], "python": environment["python"], **environment["packages"]}
    for report in reports:
        versions |= report["versions"]
    shown += [
        ("threads", str(document["threads"])),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)),
    ]
    rules = [
        f"Counts match if they round to the published digits. Counted are {RULE}.",
        "Accuracies come from run folders, evaluated on the paper's data at its input size; bounds in percent points: "
        + ", ".join(f"{FIELDS[f]} {m.bound:g}" for n in (2, 4, 5) for f, m in procedure(n).metrics.items())
        + ".",
        "Latency is the median of a call with batch 1; untrained weights, whose batch norms have the statistics of "
        "their inputs, so that activations are of unit scale. Milliseconds are compared only under the paper's "
        "conditions (Xeon Gold 6148, 10 threads, oneDNN).",
        "Elsewhere ratios to the table's reference row are compared: here with a 95 % bootstrap interval in brackets; "
        f"a match is within {RATIO_BOUND:.0%} of the paper's ratio. Pairs of rows are tied if their intervals "
        f"meet; pairs whose latencies in the paper are within {TIE:.0%} of each other do not count.",
    ]
    if document["quick"]:
        rules.append("This is a quick run: too few calls for figures to rely on.")
    figure = draw_figure(document)
    return View(
        document,
        shown,
        counts_of(parts),
        agreements,
        [text for agrees, text in findings if agrees],
        [text for agrees, text in findings if not agrees],
        missing_of(parts),
        parts,
        figure,
        rules,
    )


def write_reports(out: Path, document: Document) -> None:
    """Write reproduce.html, which needs no other file, reproduce.md, and the figure that it shows."""
    view = view_of(document)
    values = {**view._asdict(), "figure_file": FIGURE, "statuses": STATUSES}
    for name, escape in (("reproduce.html", True), ("reproduce.md", False)):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__),
            undefined=jinja2.StrictUndefined,
            autoescape=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        atomic_write_text(out / name, environment.get_template(name).render(values))
    if view.figure is not None:
        atomic_write_text(out / FIGURE, view.figure)
