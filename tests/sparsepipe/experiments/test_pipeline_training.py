"""From training three ways to claims; the results are made up here."""

from pathlib import Path
from typing import Any

from sparsepipe.experiments import pipeline_training as training, training as one_process


def result(accuracy: float) -> dict[str, Any]:
    return {
        "loss": [1 / (step + 1) for step in range(60)],
        "step_s": {"median": 0.1},
        "test_accuracy": accuracy,
        "utilisation": [0.9, 0.8],
    }


def test_claims_hold_asynchronous_against_both_synchronous_ways(tmp_path: Path) -> None:
    results = {
        "shapes": [result(0.950), result(0.955)],
        "shapes flushing, short": [result(0.990), result(0.990)],
        "shapes asynchronous, short": [result(0.945), result(0.955)],
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
    cases = {case.name: case for case in (*one_process.cases(), *training.cases())}
    short = [cases[training.case_name("short", way)].options for way in training.WAYS]
    assert len({(o.steps, o.batch_size, o.learning_rate, o.data, o.points) for o in short}) == 1
    assert len({o.scheme for o in short}) == 2


def test_sparse_is_held_against_dense_where_deepspeed_ran(tmp_path: Path) -> None:
    fast, slow = {"samples_per_s": 60.0}, {"samples_per_s": 20.0}
    sizes = {"cells_per_step": 4000, "voxels_per_step": 100}
    results = {training.SPARSE: [fast], training.DENSE: [{**slow, **sizes}]}
    (claim,) = training.conclude(results, tmp_path).claims
    assert (claim.id, claim.ours) == ("sparsepipe.over-deepspeed-dense.shapes.measured", 3.0)
    assert "40 cells a voxel" in claim.what
