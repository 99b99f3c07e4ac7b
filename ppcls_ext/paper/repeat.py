"""Two runs of `pplcnet reproduce`: which ratios of latencies agree, and which do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

REPEAT_BOUND = 0.05  # two runs agree on a ratio if they differ by no more than this share of the larger

Key = tuple[int, str, str]  # table, variant, engine


class Repeated(NamedTuple):
    """The ratio of a network to its table's reference row, in two runs."""

    table: int
    variant: str
    engine: str
    label: str
    first: float
    second: float

    @property
    def apart(self) -> float:
        """How far the two are apart, as a share of the larger."""
        return 1 - min(self.first, self.second) / max(self.first, self.second)

    @property
    def agrees(self) -> bool:
        """Whether the two are within `REPEAT_BOUND`."""
        return self.apart <= REPEAT_BOUND


def ratios_of(document: Mapping[str, Any]) -> Iterator[tuple[Key, str, str, float]]:
    """Table, variant and engine; the reference's label; a network's label and ratio, for each ratio of a document."""
    for record in document["benchmarks"]:
        rows = record.get("report", {}).get("results", [])
        for row in rows[1:]:
            if row["failure"] is None and row["ratio_to_first"] is not None:
                key = (record["table"], record["variant"], record["engine"])
                yield key, rows[0]["label"], row["label"], row["ratio_to_first"]["ratio"]


def repeated_ratios(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Repeated]:
    """The ratios that both documents have, to the same reference, in the order of the first."""
    other = {(key, reference, label): ratio for key, reference, label, ratio in ratios_of(second)}
    return [
        Repeated(*key, label, ratio, other[key, reference, label])
        for key, reference, label, ratio in ratios_of(first)
        if (key, reference, label) in other
    ]


def second_run(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What a document keeps of its second run: when and on which processor that was, and its ratios beside its own."""
    reports = [b["report"] for b in second["benchmarks"] if "report" in b]
    times = sorted(report["created"] for report in reports)
    return {
        "measured": list(dict.fromkeys([times[0], times[-1]])) if times else [],
        "cpu": second["environment"]["cpu"],
        "ratios": [repeated._asdict() for repeated in repeated_ratios(first, second)],
    }


def repeat_lines(document: Mapping[str, Any], most: int) -> list[tuple[bool, str]]:
    """A sentence for each engine on how the second run agrees, and whether it does; none without a second run.

    Args:
        most: networks that a sentence names.
    """
    kept = document.get("second")
    if not kept:
        return []
    ratios = [Repeated(**values) for values in kept["ratios"]]
    here = document["environment"]["cpu"]
    where = "" if kept["cpu"] == here else f", on another processor ({kept['cpu']})"
    when = " to ".join(kept["measured"])
    return [
        _line(engine, [one for one in ratios if one.engine == engine], f"{when}{where}", most)
        for engine in dict.fromkeys(one.engine for one in ratios)
    ]


def _line(engine: str, ratios: Sequence[Repeated], when: str, most: int) -> tuple[bool, str]:
    apart = sorted((one for one in ratios if not one.agrees), key=lambda one: -one.apart)
    named = "; ".join(f"Table {one.table} {one.label}: {one.first:.3f} and {one.second:.3f}" for one in apart[:most])
    more = f"; and {len(apart) - most} more" if len(apart) > most else ""
    text = (
        f"A second run on {engine} ({when}): {len(ratios) - len(apart)} of {len(ratios)} ratios agree within "
        f"{REPEAT_BOUND:.0%}, the others are up to {apart[0].apart:.1%} apart: {named}{more}."
        if apart
        else f"A second run on {engine} ({when}): all {len(ratios)} ratios agree within {REPEAT_BOUND:.0%}."
    )
    return not apart, text
