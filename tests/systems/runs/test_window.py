"""A run's summary, from steps that were written by hand; see also tests/stanza/train."""

from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.window import summarize


def rank(seconds: list[float], **totals: float) -> list[Step]:
    """The steps of a rank, of which the first is not measured, and its totals."""
    steps = [Step(i, {"step_s": s, "samples": 2}) for i, s in enumerate(seconds)]
    window = {"window_s": 10.0, "window_steps": len(seconds) - 1}
    return [*steps, Step(len(seconds), {**window, **totals})]


def test_steps_that_take_turns_at_being_long_are_means_over_periods() -> None:
    """Five steps in pairs: the first of them belongs to no whole pair."""
    ranks = [rank([9.0, 9.0, 1.0, 3.0, 2.0, 4.0]), rank([0.0] * 6)]
    found = summarize(ranks, 2, 4, steps_together=2)
    assert found["step_s"] == {"median": 2.5, "low": 2.25, "high": 2.75, "n": 2}
    assert summarize(ranks, 2, 4, steps_together=9)["step_s"]["median"] == 19 / 5
    assert found["samples_per_s"] == 4 * 5 / 10.0


def test_bytes_and_seconds_are_those_of_the_cluster_that_stands_behind_an_emulation() -> None:
    ranks = [rank([1.0, 3.0, 3.0], tcp_sent_bytes_per_step=5.0), rank([1.0, 1.0, 1.0])]
    found = summarize(ranks, 2, 4, Emulation(scale=10.0, dilate=2.0))
    assert found["step_s"]["median"] == 1.5
    assert found["samples_per_s"] == 4 * 2 / 5.0
    sent = [(row["tcp_sent"], row["payload_sent"]) for row in found["bytes_per_step"]]
    assert sent == [(50.0, None), (None, None)]


def test_what_nobody_tells_is_left_out() -> None:
    found = summarize([rank([1.0, 1.0])], 1, 2)
    assert "loss" not in found
    assert "test_accuracy" not in found
    told = summarize([rank([1.0, 1.0], test_accuracy=0.5, resumed_step=3)], 1, 2)
    assert (told["test_accuracy"], told["resumed_step"]) == (0.5, 3)
