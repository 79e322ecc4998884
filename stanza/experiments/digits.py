"""Real training on handwritten digits by every scheme over loopback: the updates are those of one
process, and the bytes those of the paper's table.
"""

from collections.abc import Iterator
from pathlib import Path

from stanza.experiments import digits_figures as figures
from stanza.experiments.digits_figures import busiest, relative_gaps
from stanza.experiments.targets import SAVES
from stanza.options import Options
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results, sweep

FIRST = 10
"""The steps whose losses are compared. Sums in another order round differently, and where that
changes which value a maximum takes, losses part: by half as much again with every step."""
EQUAL = 1e-5
"""Losses of two schemes agree this well over these steps: float32 rounding, grown."""
LARGEST_GAP_OF_ACCURACY = 0.01

_DIGITS = Options(
    model="digits-cnn",
    data="digits",
    global_batch_size=96,
    steps=40,
    learning_rate=0.05,
    fc_workers=1,
    micro_batches=1,
)
CASES = sweep(
    _DIGITS,
    {
        "stanza": {"steps": 150},
        "stanza m=4": {"micro_batches": 4},
        "ps-blocking": {"scheme": "ps"},
        "ps-pipelined": {"scheme": "ps", "ps_mode": "pipelined"},
        "ps-sharded": {"scheme": "ps", "ps_mode": "pipelined", "ps_placement": "colocated"},
        "ps-2-servers": {"scheme": "ps", "ps_servers": 2},
        "ddp": {"scheme": "ddp"},
        "single": {"scheme": "single", "steps": 150},
    },
)


def conclude(results: Results, folder: Path) -> Outcome:
    """Judge losses, accuracy and bytes on the wire, and draw them.

    Nothing is said of speed: four ranks share the cores here and the network costs next to nothing,
    so times would measure no scheme.
    """
    return Outcome(
        figures=(figures.losses(results, folder), figures.bytes_per_step(results, folder)),
        claims=(
            *_accuracy_claims(results),
            *_loss_claims(results),
            *_byte_claims(results),
            *_saving_claims(results),
        ),
        notes=(figures.summary(results),),
    )


def _accuracy_claims(results: Results) -> list[Claim]:
    """Claim Stanza's test accuracy, and its distance from one process's."""
    accuracies = [run["test_accuracy"] for run in results["stanza"]]
    alone = [run["test_accuracy"] for run in results["single"]]
    return [
        claim(
            "stanza.accuracy.digits.measured",
            "test accuracy on 360 digits, 3 CONV + 1 FC worker",
            accuracies,
            Target(least=0.97, unit="fraction"),
        ),
        claim(
            "stanza.accuracy-gap.digits.measured",
            "difference of test accuracy between Stanza (3+1) and one process, same seed",
            [abs(a - b) for a, b in zip(accuracies, alone, strict=True)],
            Target(most=LARGEST_GAP_OF_ACCURACY, unit="fraction"),
            judged_by="largest",
        ),
    ]


def _loss_claims(results: Results) -> Iterator[Claim]:
    """Claim that the first losses of every scheme are those of one process, for all compute the
    same updates."""
    for name, runs in results.items():
        if name == "single":
            continue
        yield claim(
            f"stanza.loss-gap.{name}.measured",
            f"largest relative difference of {name}'s loss to one process's, {FIRST} steps, worst "
            "seed",
            [
                max(relative_gaps(run["loss"][:FIRST], alone["loss"][:FIRST]))
                for run, alone in zip(runs, results["single"], strict=True)
            ],
            Target(most=EQUAL, source="synchronous schemes compute one SGD step", unit="fraction"),
            judged_by="largest",
        )


def _byte_claims(results: Results) -> Iterator[Claim]:
    """Claim the bytes that the kernel counted over those of the traffic table.

    There is no claim for a scheme without them: one process sends nothing, and some systems do not
    count.
    """
    for name, runs in results.items():
        pairs = [(busiest(run, "tcp"), busiest(run, "table")) for run in runs]
        ratios = [counted / table for counted, table in pairs if counted is not None and table]
        if ratios:
            yield claim(
                f"stanza.bytes-over-table.{name}.measured",
                f"TCP bytes per step of {name}'s busiest rank over the paper's traffic table",
                ratios,
                Target(least=0.98, most=1.02, source="this project's target: within 2 %", unit="x"),
            )


def _saving_claims(results: Results) -> Iterator[Claim]:
    """Claim how many times more bytes the busiest rank of a baseline carries than Stanza's does."""
    ours = [busiest(run, "tcp") for run in results["stanza"]]
    for name in ("ps-blocking", "ddp"):
        theirs = [busiest(run, "tcp") for run in results[name]]
        savings = [b / a for a, b in zip(ours, theirs, strict=True) if a and b]
        if savings:
            yield claim(
                f"stanza.bytes-of-{name}-over-stanza.digits.measured",
                f"TCP bytes per step of {name}'s busiest rank over those of Stanza's (3+1), digits",
                savings,
                SAVES,
            )
