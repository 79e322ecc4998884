"""What asynchronous updates cost in accuracy: one network trained three ways on generated shapes.

One process, a pipeline that flushes (1F1B, synchronous), and one that does not (1F1B with weight
stashing); the same mini-batches in the same order, from the same weights.
"""

import dataclasses
from pathlib import Path
from statistics import median

from sparsepipe.experiments.training_figures import curves
from sparsepipe.options import Options
from systems.claims import Claim, Target, claim
from systems.experiment import Case, Outcome, Results

RANKS = 2
# Of a few minutes at most: accuracy still rises when it ends, and differences are then largest.
SHORT = Options(
    width=0.125,
    data="shapes",
    points=512,
    normals=True,
    voxel_size=0.1,
    batch_size=32,
    steps=240,
    learning_rate=0.03,
)
LONG = dataclasses.replace(SHORT, points=1024, normals=False, voxel_size=0.05, steps=1200)
ONE, FLUSHING, ASYNCHRONOUS = "one process", "flushing", "asynchronous"
WAYS = {
    ONE: {"scheme": "single"},
    # Halves, so that batch normalisation sees 16 clouds: it takes the statistics of a micro-batch.
    FLUSHING: {"scheme": "pipeline", "schedule": "1f1b", "micro_batches": 2},
    ASYNCHRONOUS: {"scheme": "pipeline", "schedule": "1f1b-async"},
}
LENGTHS = {"short": SHORT, "long": LONG}
POINT = 0.01


def _case(length: str, way: str) -> Case:
    changes = WAYS[way]
    return Case(
        name=f"{way}, {length}",
        options=dataclasses.replace(LENGTHS[length], **changes),  # type: ignore[arg-type]
        nodes=1 if way == ONE else RANKS,
        level="full",  # the longer the more it says; minutes even when short
    )


CASES = tuple(_case(length, way) for length in LENGTHS for way in WAYS)


def conclude(results: Results, folder: Path) -> Outcome:
    """Curves and accuracies, of every length that was run."""
    figures, claims, notes = [], list[Claim](), []
    for length in LENGTHS:
        runs = {way: results[f"{way}, {length}"] for way in WAYS if f"{way}, {length}" in results}
        if not runs:
            continue
        figures.append(
            curves(
                runs,
                folder,
                name=f"pipeline-training-{length}",
                title=f"Asynchronous, flushing and one process ({length} training)",
                caption=f"{RANKS} ranks on this machine, a stage each; time is steps x the median "
                "step. Asynchronous mini-batches meet the weights of earlier ones.",
            )
        )
        claims += [_loss_of_accuracy(runs, length, than) for than in (ONE, FLUSHING)]
        notes.append(_table(runs, length))
    return Outcome(figures=tuple(figures), claims=tuple(claims), notes=tuple(notes))


def _loss_of_accuracy(runs: Results, length: str, than: str) -> Claim:
    pairs = zip(runs[than], runs[ASYNCHRONOUS], strict=True)
    return claim(
        *("sparsepipe", f"asynchronous-below-{than.replace(' ', '-')}", f"shapes-{length}"),
        "measured",
        what=f"test accuracy of {than} minus that of asynchronous training, {length}: "
        f"{LENGTHS[length].steps} steps on the same mini-batches",
        values=[first["test_accuracy"] - second["test_accuracy"] for first, second in pairs],
        unit="fraction",
        target=Target(most=POINT, source="this project's target: within 1 point"),
    )


def _table(runs: Results, length: str) -> str:
    lines = [
        f"Training on shapes, {length}, {len(runs[ONE])} repetitions (measured):",
        "",
        "| | test accuracy | step, ms | busy |",
        "| --- | --- | --- | --- |",
    ]
    for way, repeated in runs.items():
        accuracies = ", ".join(f"{run['test_accuracy']:.1%}" for run in repeated)
        step_ms = median(run["step_s"]["median"] for run in repeated) * 1e3
        busy = ", ".join(f"{part:.0%}" for part in repeated[0].get("utilisation", ()))
        lines.append(f"| {way} | {accuracies} | {step_ms:.0f} | {busy} |")
    return "\n".join(lines)
