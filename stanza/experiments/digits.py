"""Real training on handwritten digits by every scheme: what is run and what is claimed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from stanza.experiments import digits_figures as figures
from stanza.experiments.digits_figures import busiest, relative_gaps
from stanza.experiments.targets import BASELINES, PAPER, PAPER_RANGE, SAVES
from stanza.options import Options
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Comparison, Outcome, Results, compare_step_times, sweep

EQUAL = 1e-5
"""Losses of two schemes agree this well over a run's first 20 steps: float32 rounding, grown."""
LARGEST_GAP_OF_ACCURACY = 0.01

_DIGITS = Options(
    model="digits-cnn",
    data="digits",
    global_batch_size=96,
    steps=150,
    learning_rate=0.05,
    fc_workers=1,
    micro_batches=1,
)
CASES = sweep(
    _DIGITS,
    {
        "stanza": {},
        "stanza m=4": {"micro_batches": 4},
        "ps-blocking": {"scheme": "ps"},
        "ps-pipelined": {"scheme": "ps", "ps_mode": "pipelined"},
        "ps-sharded": {"scheme": "ps", "ps_mode": "pipelined", "ps_placement": "colocated"},
        "ps-2-servers": {"scheme": "ps", "ps_servers": 2},
        "ddp": {"scheme": "ddp"},
        "single": {"scheme": "single"},
    },
)


def conclude(results: Results, folder: Path) -> Outcome:
    """Judge losses, accuracy, throughput, bytes on the wire and predictions, and draw them."""
    throughput = {name: [run["samples_per_s"] for run in runs] for name, runs in results.items()}
    planned = {n: runs for n, runs in results.items() if all(r["predicted_step_s"] for r in runs)}
    return Outcome(
        figures=(
            figures.losses(results, folder),
            figures.throughput(throughput, folder),
            figures.bytes_per_step(results, folder),
        ),
        claims=(
            *_accuracy_claims(results),
            *_loss_claims(results),
            *_throughput_claims(throughput),
            *_byte_claims(results),
            *_saving_claims(results),
            *_prediction_claims(planned),
        ),
        notes=(figures.summary(results), figures.orders(planned)),
        comparisons=tuple(_comparisons(planned)),
    )


def _accuracy_claims(results: Results) -> list[Claim]:
    """Stanza's test accuracy, and its distance from one process's."""
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
    """Every scheme computes the same updates, so its first losses are those of one process."""
    for name, runs in results.items():
        if name == "single":
            continue
        yield claim(
            f"stanza.loss-gap.{name}.measured",
            f"largest relative difference of {name}'s loss to one process's, 20 steps, worst seed",
            [
                max(relative_gaps(run["loss"][:20], alone["loss"][:20]))
                for run, alone in zip(runs, results["single"], strict=True)
            ],
            Target(most=EQUAL, source="synchronous schemes compute one SGD step", unit="fraction"),
            judged_by="largest",
        )


def _throughput_claims(throughput: Mapping[str, Sequence[float]]) -> Iterator[Claim]:
    """Stanza's throughput over that of every other scheme."""
    not_slower = Target(least=1.0, unit="x", source="Stanza should not lose to a baseline")
    source = f"{PAPER}: the least gain on a 10 Gb/s cluster"
    as_in_paper = Target(least=PAPER_RANGE[0], unit="x", source=source)
    for name in (*BASELINES, "ps-2-servers", "single"):
        of_paper = "1.34x to 13.9x over parameter servers (V100, 10 Gb/s)"
        yield claim(
            f"stanza.speedup-as-published-over-{name}.digits.measured",
            f"throughput of Stanza as published (3+1, no micro-batches) over {name}, 4 ranks of "
            "one machine, digits",
            [a / b for a, b in zip(throughput["stanza"], throughput[name], strict=True)],
            as_in_paper if name == "ps-blocking" else not_slower,
            paper=of_paper if name.startswith("ps") else None,
        )


def _byte_claims(results: Results) -> Iterator[Claim]:
    """Bytes that the kernel counted over those of the traffic table.

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
    """How many times more bytes the busiest rank of a baseline carries than Stanza's does."""
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


def _prediction_claims(planned: Results) -> Iterator[Claim]:
    """Measured over predicted step time of every scheme that has a prediction."""
    for name, runs in planned.items():
        yield claim(
            f"stanza.measured-over-predicted-step.digits-{name}.measured",
            f"measured over predicted step time of {name}, from a profile and a link rate measured "
            "just before",
            [run["step_s"]["median"] / run["predicted_step_s"] for run in runs],
            Target(least=0.9, most=1.1, source="a plan should come true within 10 %", unit="x"),
        )


def _comparisons(planned: Results) -> Iterator[Comparison]:
    """The step time of every scheme that has a prediction: as planned, and as run."""
    for name, runs in planned.items():
        yield compare_step_times(
            f"digits, {name}",
            median(run["predicted_step_s"] for run in runs),
            [run["step_s"]["median"] for run in runs],
            predicted_by="planner",
            tier="measured",
        )
