"""What asynchronous updates cost in accuracy: one network trained three ways on generated shapes.

One process (the training experiment's own run), a pipeline that flushes (1F1B, synchronous), and
one that does not (1F1B with weight stashing); the same mini-batches in the same order, from the
same weights, for as many epochs. Where DeepSpeed is installed, its pipeline trains the dense twin
on the same clouds, for its speed alone.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from sparsepipe.experiments.training import SHAPES
from sparsepipe.experiments.training_figures import curves
from sparsepipe.options import Options
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Case, Level, Outcome, Results, sweep
from systems.figures.text import table

RANKS = 2
ONE, FLUSHING, ASYNCHRONOUS = "one process", "flushing", "asynchronous"
WAYS: dict[str, dict[str, Any]] = {
    ONE: {"scheme": "single"},
    # Halves: batch normalisation takes the statistics of a micro-batch, and wants a large one.
    FLUSHING: {"scheme": "pipeline", "schedule": "1f1b", "micro_batches": 2},
    ASYNCHRONOUS: {"scheme": "pipeline", "schedule": "1f1b-async"},
}
LENGTHS: dict[str, Options] = {"short": SHAPES, "long": dataclasses.replace(SHAPES, steps=1500)}
LEVELS: dict[str, Level] = {"short": "quick", "long": "full"}
POINT = 0.01
"""One point of accuracy."""
DENSE_STEPS = 4
"""The dense twin takes seconds for each step."""
DENSE, SPARSE = "DeepSpeed, dense twin", "sparse pipeline beside it"
BESIDE: dict[str, dict[str, Any]] = {
    SPARSE: WAYS[FLUSHING],
    DENSE: {"scheme": "deepspeed", "micro_batches": 2},
}


def case_name(length: str, way: str) -> str:
    """The name of a case; the short one process is the training experiment's."""
    return "shapes" if (length, way) == ("short", ONE) else f"shapes {way}, {length}"


def cases() -> tuple[Case, ...]:
    """Every length and way but the one that the training experiment has, and DeepSpeed's pipeline
    beside the sparse one."""
    cases: list[Case] = []
    for length, options in LENGTHS.items():
        for way, changes in WAYS.items():
            name, nodes = case_name(length, way), 1 if way == ONE else RANKS
            if name != "shapes":
                cases += sweep(options, {name: changes}, nodes=nodes, level=LEVELS[length])
    if find_spec("deepspeed") is not None:
        few = dataclasses.replace(SHAPES, batch_size=8, steps=DENSE_STEPS, test_clouds=8)
        cases += sweep(few, BESIDE, nodes=RANKS)
    return tuple(cases)


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw and judge every length that was run; judge sparse over dense."""
    figures, claims, notes = [], list[Claim](), []
    for length in LENGTHS:
        named = {way: case_name(length, way) for way in WAYS}
        if not all(name in results for name in named.values()):
            continue
        runs = {way: results[name] for way, name in named.items()}
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
    if DENSE in results and SPARSE in results:
        claims.append(_over_dense(results))
    return Outcome(figures=tuple(figures), claims=tuple(claims), notes=tuple(notes))


def _loss_of_accuracy(runs: Results, length: str, than: str) -> Claim:
    """Claim how much accuracy asynchronous training loses against another way."""
    pairs = zip(runs[than], runs[ASYNCHRONOUS], strict=True)
    return claim(
        f"sparsepipe.asynchronous-below-{than}.shapes-{length}.measured",
        f"test accuracy of {than} minus that of asynchronous training, {length}: "
        f"{LENGTHS[length].steps} steps on the same mini-batches",
        [first["test_accuracy"] - second["test_accuracy"] for first, second in pairs],
        Target(most=POINT, source="this project's target: within 1 point", unit="fraction"),
    )


def _over_dense(results: Results) -> Claim:
    """The sparse pipeline's throughput over that of DeepSpeed's pipeline of the dense twin."""
    pairs = list(zip(results[SPARSE], results[DENSE], strict=True))
    cells = pairs[0][1]["cells_per_step"] / pairs[0][1]["voxels_per_step"]
    return claim(
        "sparsepipe.over-deepspeed-dense.shapes.measured",
        f"throughput of the flushing sparse pipeline over DeepSpeed's PipelineModule on the "
        f"dense twin, the same clouds, {RANKS} ranks, {cells:.0f} cells a voxel",
        [sparse["samples_per_s"] / dense["samples_per_s"] for sparse, dense in pairs],
        Target(least=1.0, source="this project's target: faster than dense", unit="x"),
    )


def _table(runs: Results, length: str) -> str:
    """Write a table of accuracies, step times and utilisation of every way, in Markdown."""
    return table(
        ("", "test accuracy", "step, ms", "busy"),
        [
            (
                way,
                ", ".join(f"{run['test_accuracy']:.1%}" for run in repeated),
                f"{median(run['step_s']['median'] for run in repeated) * 1e3:.0f}",
                ", ".join(f"{part:.0%}" for part in repeated[0].get("utilisation", ())),
            )
            for way, repeated in runs.items()
        ],
        f"Training on shapes, {length}, {len(runs[ONE])} repetitions (measured):",
    )
