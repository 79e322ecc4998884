"""What `testbed reproduce local_sgd` runs, draws and claims: fewer bytes, and what they cost."""

from pathlib import Path
from statistics import median

from local_sgd.system import Options
from systems.figures.claims import Target, claim
from systems.figures.draw import Lines, draw
from systems.figures.experiment import Experiment, Outcome, Results, sweep

PERIODS = (1, 2, 4, 8, 16, 32)
RING_BYTES = 2 * 3 / 4 * 4 * (65 * 512 + 513 * 10)
"""What each of four ranks sends in a ring all-reduce of the network's float32 parameters."""


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw accuracy and bytes against the period H, and judge them."""
    runs = [results[f"H={period}"] for period in PERIODS]
    sent = [
        median(max(r["tcp_sent"] or 0 for r in one["bytes_per_step"]) for one in of) for of in runs
    ]
    tested = [median(run["test_accuracy"] for run in of) for of in runs]
    table = [RING_BYTES / period for period in PERIODS]
    curves = {
        "test accuracy": {"4 replicas": tested, "H = 1": tested[:1] * len(PERIODS)},
        "bytes sent per step": {"counted by the kernel": sent, "an all-reduce / H": table},
    }
    panels = [
        Lines(
            series={name: (PERIODS, values) for name, values in series.items()},
            x_label="steps between two averages, H",
            y_label=label,
            title="Digits, 96 steps, 4 ranks (measured)",
            logarithmic_x=True,
            logarithmic="bytes" in label,
            from_zero="bytes" not in label,
        )
        for label, series in curves.items()
    ]
    title, note = "Averaging every H steps", "medians; all ranks are processes of one machine"
    caption = "Bytes fall as 1/H. Digits are learnt as well: all replicas see all kinds of them."
    path = folder / "local-sgd-period"
    figure = draw(path, panels, note, title=title, tier="measured", caption=caption)
    in_bytes = claim(
        "local_sgd.bytes-over-table.all.measured",
        "bytes sent per step over those of a ring all-reduce / H, H = 1 to 32",
        [ours / expected for ours, expected in zip(sent, table, strict=True)],
        Target(least=0.98, most=1.02, unit="x"),
        judged_by="largest",
    )
    in_accuracy = claim(
        "local_sgd.accuracy-lost.all.measured",
        "test accuracy of synchronous replicas (H = 1) less that of H = 2 to 32, the worst",
        [tested[0] - accuracy for accuracy in tested[1:]],
        Target(most=0.02, unit="fraction"),
        judged_by="largest",
    )
    return Outcome(figures=(figure,), claims=(in_bytes, in_accuracy))


EXPERIMENTS = (
    Experiment(
        system="local_sgd",
        id="period",
        title="Bytes and accuracy against the steps between two averages",
        tier="measured",
        world_size=4,
        cases=sweep(Options(), {f"H={period}": {"period": period} for period in PERIODS}),
        repeats={"quick": 1, "full": 5},
        conclude=conclude,
    ),
)
