"""A run's summary, from steps that were written by hand."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from stanza.cut.separate import separate
from stanza.layout import layout_of
from stanza.models import build_model
from stanza.options import Options
from stanza.planner.plan import Plan, load_profile, plan
from stanza.train.summary import summarize_training
from systems.clusters.cluster import load
from systems.profiles.emulation import Emulation
from systems.runs.record import Step

COUNTED = {
    "payload_sent_bytes_per_step": 11.0,
    "payload_received_bytes_per_step": 12.0,
    "tcp_sent_bytes_per_step": 13.0,
    "tcp_received_bytes_per_step": 14.0,
}
OPTIONS = Options(steps=4, global_batch_size=10)


def steps(metrics: list[Mapping[str, float]], **totals: float) -> list[Step]:
    """One rank's steps: a warm-up of ten seconds, then 1, 2, 3, ... seconds; then the totals."""
    lasted = [10.0, *range(1, len(metrics))]
    rows = [Step(i, {"step_s": lasted[i], **row}) for i, row in enumerate(metrics)]
    window = {"window_s": 8.0, "window_steps": len(metrics) - 1}
    return [*rows, Step(len(metrics), {**window, **totals})]


def stanza_run(**counters: float) -> list[list[Step]]:
    """Two CONV workers and an FC worker, which alone knows the loss."""
    conv = steps([{"samples": 5.0}] * 4, test_accuracy=0.75, corrupt_images=2, **counters)
    other = steps([{"samples": 5.0}] * 4, **counters)
    fc = steps([{"loss_sum": loss} for loss in (40.0, 30.0, 20.0, 10.0)], **counters)
    return [conv, other, fc]


def summary(**counters: float) -> dict[str, Any]:
    found = Plan(layout=layout_of(OPTIONS, 3, 1, 1), reason="as given")
    return summarize_training(OPTIONS, found, stanza_run(**counters), Emulation())


def test_throughput_is_that_of_the_window() -> None:
    found = summary()
    assert found["scheme"] == "stanza"
    assert found["samples_per_step"] == 10
    assert found["samples_per_s"] == 3 * 10 / 8.0


def test_warm_up_steps_are_not_in_the_spread() -> None:
    assert summary()["step_s"] == {"median": 2.0, "low": 1.5, "high": 2.5, "n": 3}


def test_the_loss_is_a_mean_over_all_samples_of_every_step() -> None:
    assert summary()["loss"] == [4.0, 3.0, 2.0, 1.0]


def test_losses_of_several_ranks_add_up() -> None:
    """Those of a rank that was lost after its first step too."""
    options = Options(steps=2, global_batch_size=10, scheme="ddp")
    one: list[Mapping[str, float]] = [
        {"loss_sum": 12.0, "samples": 5},
        {"loss_sum": 6.0, "samples": 5},
    ]
    two: list[Mapping[str, float]] = [
        {"loss_sum": 8.0, "samples": 5},
        {"loss_sum": 4.0, "samples": 5},
    ]
    workers = [steps(one, test_accuracy=1.0, corrupt_images=0), steps(two)]
    lost = [Step(0, {"loss_sum": 1.0, "samples": 2})]
    made = Plan(layout=layout_of(options, 2, 0, 1), reason="")
    found = summarize_training(options, made, workers, Emulation())
    assert found["loss"] == [2.0, 1.0]
    assert found["scheme"] == "ddp"
    found = summarize_training(options, made, [*workers, lost], Emulation())
    assert found["loss"] == [21 / 12, 1.0]


def test_rank_0_tells_accuracy_and_corrupt_images() -> None:
    found = summary()
    assert (found["test_accuracy"], found["corrupt_images"]) == (0.75, 2)


def test_tests_between_steps_are_listed_with_their_time() -> None:
    options = Options(steps=2, global_batch_size=10, scheme="ddp")
    rows: list[Mapping[str, float]] = [{"trained_s": 0.5, "test_accuracy": 0.25}, {}]
    ranks = [steps(rows, trained_s=2.0, test_accuracy=0.75), steps([{}, {}])]
    found = summarize_training(
        options, Plan(layout=layout_of(options, 2, 0, 1), reason=""), ranks, Emulation()
    )
    assert found["tests"] == [
        {"steps": 1, "trained_s": 0.5, "test_accuracy": 0.25},
        {"steps": 2, "trained_s": 2.0, "test_accuracy": 0.75},
    ]


def test_every_rank_has_a_row_of_bytes() -> None:
    rows = summary(**COUNTED)["bytes_per_step"]
    parts = separate(build_model("digits-cnn"), (1, 8, 8))
    cut, ring = 5 * 4 * parts.cut_values, sum(p.nbytes for p in parts.conv.parameters())
    counted = {key.removesuffix("_bytes_per_step"): value for key, value in COUNTED.items()}
    conv = {"role": "conv", "table_sent": cut + ring, "table_received": cut + ring, **counted}
    fc = {"role": "fc", "table_sent": 2 * cut, "table_received": 2 * cut, **counted}
    assert rows == [conv, conv, fc]


def test_counters_that_do_not_exist_are_none() -> None:
    rows = summary(**{key: 1.0 for key in COUNTED if key.startswith("payload")})["bytes_per_step"]
    assert {row["tcp_sent"] for row in rows} == {None}
    assert {row["payload_sent"] for row in rows} == {1.0}


def test_bytes_are_those_of_the_scheme_that_ran() -> None:
    """Stanza was asked for, and the planner separated nothing."""
    options = Options(steps=4, global_batch_size=12, fc_workers=0)
    workers = [stanza_run()[0]] * 3
    found = summarize_training(
        options, Plan(layout=layout_of(options, 3, 0, 1), reason=""), workers, Emulation()
    )
    assert found["scheme"] == "ddp"
    model_bytes = sum(p.nbytes for p in build_model("digits-cnn").parameters())
    sent = [row["table_sent"] for row in found["bytes_per_step"]]
    assert sent == pytest.approx([2 * model_bytes * 2 / 3] * 3)


def test_the_prediction_comes_along() -> None:
    assert summary()["predicted_step_s"] is None
    options = Options(model="alexnet", steps=4, local_batch_size=5, fc_workers=1)
    made = plan(options, 3, load("ec2-p3-10g").with_size(3), load_profile("alexnet"))
    found = summarize_training(options, made, stanza_run(), Emulation())
    assert made.chosen is not None
    assert found["predicted_step_s"] == made.chosen.step_s
    assert found["samples_per_step"] == 2 * 5


def test_a_summary_is_plain_json() -> None:
    found = summary(**COUNTED)
    assert json.loads(json.dumps(found)) == found
    assert all(math.isfinite(loss) for loss in found["loss"])
