"""From differences to claims; tests/sparsepipe/runtime/test_run.py trains the cases themselves."""

from pathlib import Path

from sparsepipe.experiments import equivalence


def test_the_largest_difference_counts(tmp_path: Path) -> None:
    results = {
        name: [{"difference": (i + 1) * 1e-6, "from_synchronous": 0.1 * (i + 1)}]
        for i, name in enumerate(equivalence.CASES)
    }
    outcome = equivalence.conclude(results, tmp_path)
    flushing, asynchronous = outcome.claims
    assert (flushing.ours, flushing.status) == (3e-6, "pass")
    assert (asynchronous.ours, asynchronous.status) == (6e-6, "pass")
    assert "0.4 and more from synchronous" in asynchronous.what
    results["async, 4 stages"] = [{"difference": 0.1, "from_synchronous": 0.0}]
    assert equivalence.conclude(results, tmp_path).claims[1].status == "off"
    assert outcome.notes[0].count("\n") == 3 + len(results)
