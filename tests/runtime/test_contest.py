"""Which engine is taken by its outputs and timings, and who takes part for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ppcls_ext.runtime import contest
from ppcls_ext.runtime.contest import Entry, Name, compete, decide
from ppcls_ext.runtime.process import EngineFailed
from tests.helpers.contenders import Fake

ONEDNN, ORT, OPENVINO = Name("onednn", "json"), Name("onnxruntime", "onnx"), Name("openvino", "pdmodel")
BATCHES = [[np.zeros((1, 2), np.float32)]]


def run(fakes: Mapping[Name, Fake | EngineFailed], seconds: float = 1.0) -> tuple[list[Entry], contest.Decision | None]:
    def start(name: Name) -> Fake:
        fake = fakes[name]
        if isinstance(fake, EngineFailed):
            raise fake
        return fake

    found = compete(list(fakes), start, lambda _, outputs: float(outputs[0][0][0]), BATCHES, 1e-3, seconds)
    assert all(fake.closed for fake in fakes.values() if isinstance(fake, Fake))
    return found


def test_the_fastest_is_taken() -> None:
    _, decision = run({ONEDNN: Fake(2.0, 0.02), ORT: Fake(1.5, 0.02), OPENVINO: Fake(1.8, 0.02)})
    assert decision is not None
    assert decision.winner.name == ORT
    assert "fastest" in decision.reason


def test_the_fastest_is_not_taken_where_its_outputs_differ() -> None:
    entries, decision = run({ONEDNN: Fake(2.0), ORT: Fake(1.0, output=0.5), OPENVINO: Fake(1.5, output=float("nan"))})
    assert decision is not None
    assert decision.winner.name == ONEDNN
    assert "differ" in entries[1].refused
    assert entries[2].refused  # no number is no agreement
    assert not entries[1].rounds


def test_the_preferred_engine_is_taken_where_the_lead_is_within_the_noise() -> None:
    _, decision = run({ONEDNN: Fake(1.001, 0.3), ORT: Fake(1.0, 0.3)}, seconds=0.02)
    assert decision is not None
    assert decision.winner.name == ONEDNN


def rounds(ms: Sequence[float]) -> list[list[float]]:
    return [[value] for value in ms]


def test_a_decision_follows_the_ratios_within_rounds_and_not_the_medians_of_all() -> None:
    speed = [1.0, 1.3, 0.8, 2.0, 1.1, 0.9, 1.7, 1.0]  # the machine's speed changes from round to round
    onednn = Entry(ONEDNN, rounds=rounds([2.0 * s for s in speed]))
    faster = Entry(ORT, rounds=rounds([1.9 * s * e for s, e in zip(speed, [1, 1.01] * 4, strict=True)]))
    decision = decide([onednn, faster])
    assert decision.winner is faster
    assert decision.settled


def test_an_engine_that_left_early_does_not_cut_the_rounds_of_the_others() -> None:
    """In the first two rounds, which the slow one was in, the second engine was luckier than it is."""
    slow = Entry(ONEDNN, rounds=rounds([3.0, 3.0]))
    faster = Entry(ORT, rounds=rounds([1.1, 1.1, *[1.0] * 20]))
    lucky = Entry(OPENVINO, rounds=rounds([1.0, 1.0, *[1.1] * 20]))
    assert decide([slow, faster, lucky]).winner is faster
    assert decide([slow, lucky, faster]).winner is faster


def test_an_engine_that_left_is_not_taken_for_the_luck_of_another() -> None:
    """The preferred engine was slow while the one that left was there."""
    preferred = Entry(ONEDNN, rounds=rounds([1.2] * 12 + [1.0] * 84))
    winner = Entry(ORT, rounds=rounds([1.0] * 12 + [0.97] * 84))
    left = Entry(OPENVINO, rounds=rounds([1.1] * 12))
    assert decide([preferred, winner, left]).winner is winner


def test_few_rounds_settle_nothing() -> None:
    entries, _ = run({ONEDNN: Fake(1.0), ORT: Fake(1.001)}, seconds=60.0)
    assert [len(entry.rounds) for entry in entries] == [contest.LEAST_SETTLED] * 2


def test_a_lead_that_may_be_none_is_not_settled() -> None:
    onednn = Entry(ONEDNN, rounds=rounds([1.0] * 8))
    other = Entry(ORT, rounds=rounds([0.7, 1.2] * 4))
    decision = decide([onednn, other])
    assert decision.winner is onednn
    assert "within the noise" in decision.reason
    assert not decision.settled  # more rounds could show that the other one is more than 3 % faster


def test_an_engine_that_crashes_is_refused_whenever_it_does() -> None:
    entries, decision = run({ONEDNN: Fake(2.0), ORT: EngineFailed("cannot open it"), OPENVINO: Fake(1.0, dies_after=5)})
    assert decision is not None
    assert decision.winner.name == ONEDNN
    assert [entry.refused for entry in entries] == ["", "cannot open it", "crashed with SIGSEGV"]


def test_a_hopeless_engine_is_not_timed_for_long() -> None:
    slow = Fake(20.0)
    entries, decision = run({ONEDNN: Fake(1.0), OPENVINO: slow})
    assert decision is not None
    assert slow.turns == 4  # to warm up, in two parts
    assert "20.0 times" in entries[1].note


def test_an_engine_that_is_surely_slower_leaves_early() -> None:
    entries, _ = run({ONEDNN: Fake(1.0, 0.01), ORT: Fake(1.005, 0.2), OPENVINO: Fake(1.5, 0.01)}, seconds=0.3)
    assert len(entries[2].rounds) == contest.LEAST_ROUNDS


def test_no_engine_agrees() -> None:
    _, decision = run({ONEDNN: Fake(1.0, output=1.0), ORT: EngineFailed("no")})
    assert decision is None


def test_the_only_one_that_agrees_is_taken_without_timing() -> None:
    only = Fake(1.0)
    _, decision = run({ONEDNN: Fake(1.0, output=1.0), ORT: only})
    assert decision is not None
    assert decision.winner.name == ORT
    assert only.turns == 0


def test_an_engine_that_was_slow_for_a_moment_takes_part() -> None:
    class SlowAtFirst(Fake):
        def turn(self, calls: int, discarded: int) -> list[float]:
            return [(9 if self.turns < 2 else 1) * ms for ms in super().turn(calls, discarded)]

    entries, decision = run({ONEDNN: Fake(2.0), ORT: SlowAtFirst(1.0)})
    assert entries[1].rounds
    assert decision is not None
    assert decision.winner.name == ORT
