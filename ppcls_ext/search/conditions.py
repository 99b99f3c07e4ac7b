"""What was searched how, and why it may be wrong, in lines for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.core.config import RUN_CONFIG, in_run_folder
from ppcls_ext.core.text import SHOWN, command_line, counted, one_line
from ppcls_ext.search.aim import Aim
from ppcls_ext.search.evolution import SearchedNetwork
from ppcls_ext.search.scores import Scorer, rank_correlations

Ranks = dict[str, tuple[float, float]]  # the correlation of each score, and its p

JUDGED_BY = {
    "supernet": "a supernet of {length}, whose networks share weights",
    "short": "a training of {length} of each network",
    "scores": "the Zen score alone, which ranks networks badly",
}
# What has learned something is right more often than a guess by so much: by this share of the guess where classes are
# many, or by this share of what a guess misses where they are few.
BEYOND, BEYOND_FEW = 0.5, 0.1
NOTHING_LEARNED = (
    "warning: no network is judged much better than guessing, so their order says nothing; train for longer"
)
FEWEST_RANKED = 5  # networks to say how far scores rank them as training does


def conditions_of(
    aim: Aim, found: Sequence[SearchedNetwork], labels: Sequence[int], length: str, ranks: Ranks
) -> list[str]:
    """A line for each condition and doubt.

    Args:
        labels: of the images held out.
        length: of the training behind what judged the networks, in words.
        ranks: see `ranks_of`.
    """
    wish, target = aim.wish, aim.model.target
    lines = [
        f"`{command_line()}`",
        f"{aim.space.name} around PP-LCNet {aim.scale:g}x at {aim.side} px, {aim.class_num} classes; at most "
        f"{aim.bound:.3g} ms predicted" + (f", as {wish.like}" if wish.like else ""),
        f"judged by {JUDGED_BY[wish.accuracy].format(length=length)}{_start(aim)}; seed {aim.task.global_section.seed}",
        f"{target.cpu[0]}, {target.engine}, {counted(target.threads, 'thread')}, calibrated {aim.calibrated}; "
        + ", ".join(f"{name} {version}" for name, version in target.versions.items()),
    ]
    lines += [f"warning: {doubt}" for doubt in aim.doubts]
    if seen := seen_before(aim):
        lines.append(seen)
    if nothing_learned(aim, found, labels):
        lines.append(NOTHING_LEARNED)
    elif ranks:
        words = ", ".join(f"{name} {rho:+.2f} (p {p:.2g})" for name, (rho, p) in ranks.items())
        first = sum(one.generation == 0 for one in found)
        lines.append(f"rank correlation with what the judge says, of the first {first} networks: {words}")
    return lines


def _start(aim: Aim) -> str:
    """The weights that a supernet began with, if they were given."""
    start, wish = aim.task.global_section.pretrained_model, aim.wish
    if start is None or wish.accuracy != "supernet" or wish.supernet is not None:
        return ""
    return f" and which began with {one_line(start, SHOWN)}"


def seen_before(aim: Aim) -> str:
    """A warning where a supernet starts from weights that a run has left: it may have seen the images to judge by."""
    start, wish = aim.task.global_section.pretrained_model, aim.wish
    if start is None or wish.accuracy != "supernet" or wish.supernet is not None:
        return ""
    if not in_run_folder(Path(start).parent / RUN_CONFIG):
        return ""
    return (
        f"warning: Global.pretrained_model: the run of {one_line(start, SHOWN)} may have been trained on the images "
        "that are held out, and networks are then judged too well; give public weights"
    )


def nothing_learned(aim: Aim, found: Sequence[SearchedNetwork], labels: Sequence[int]) -> bool:
    """Whether what judged the networks knows hardly more than how frequent each class is.

    Args:
        labels: of the images held out.
    """
    if aim.wish.accuracy == "scores":
        return False
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    # Without a look at an image: the shares of the classes as scores, and always the most frequent class.
    expected, top1 = _beyond(float((shares**2).sum())), _beyond(float(shares.max()))
    return max(one.expected for one in found) < expected or max(one.top1 for one in found) < top1


def _beyond(guess: float) -> float:
    """The least that is called better than a guess."""
    return guess + min(BEYOND * guess, BEYOND_FEW * (1 - guess))


def ranks_of(aim: Aim, found: Sequence[SearchedNetwork], scorer: Scorer) -> Ranks:
    """How far scores rank networks as their judge does: of the first generation, since bred ones are all alike."""
    first = [one for one in found if one.generation == 0]
    if aim.wish.accuracy == "scores" or len(first) < FEWEST_RANKED:
        return {}
    return rank_correlations(scorer, [one.spec for one in first], [one.expected for one in first])
