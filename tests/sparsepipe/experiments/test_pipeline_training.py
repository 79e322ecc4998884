"""From training three ways to claims; the results are made up here."""

from pathlib import Path
from typing import Any

from sparsepipe.experiments import pipeline_training as training


def result(accuracy: float) -> dict[str, Any]:
    return {
        "loss": [1 / (step + 1) for step in range(60)],
        "step_s": {"median": 0.1},
        "test_accuracy": accuracy,
        "utilisation": [0.9, 0.8],
    }


def test_claims_hold_asynchronous_against_both_synchronous_ways(tmp_path: Path) -> None:
    results = {
        "one process, short": [result(0.950), result(0.955)],
        "flushing, short": [result(0.990), result(0.990)],
        "asynchronous, short": [result(0.945), result(0.955)],
    }
    outcome = training.conclude(results, tmp_path)
    claims = {claim.id: claim for claim in outcome.claims}
    near = claims["sparsepipe.asynchronous-below-one-process.shapes-short.measured"]
    assert (near.status, near.n) == ("pass", 2)
    far = claims["sparsepipe.asynchronous-below-flushing.shapes-short.measured"]
    assert far.status == "off"
    assert [figure.path.name for figure in outcome.figures] == ["pipeline-training-short.png"]
    assert "| asynchronous | 94.5%, 95.5% | 100 | 90%, 80% |" in outcome.notes[0]


def test_the_ways_differ_in_nothing_else() -> None:
    short = [case.options for case in training.CASES if case.name.endswith("short")]
    assert len(short) == len(training.WAYS)
    assert len({(o.steps, o.batch_size, o.learning_rate, o.data) for o in short}) == 1
