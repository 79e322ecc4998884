"""The clusters in this machine with unequal devices, and what trains on them.

Every point is a cluster, a rate of its links, and who plans: see `sparsepipe.experiments.unequal`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median
from typing import Any

from sparsepipe.experiments.pipeline_grid import BY_SPEED, DDP, EQUAL_SPLIT, GPIPE, PLAN, WHO
from sparsepipe.options import Options
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.figures.experiment import Case, Results

Run = Mapping[str, Any]
"""The result of a run."""
BOXES: dict[str, tuple[float, ...]] = {
    "3:1": (0.75, 0.25),
    "3:1:1:1": (0.6, 0.2, 0.2, 0.2),
    "2:2:1:1": (0.5, 0.5, 0.25, 0.25),
}
"""The share of a core of every rank. Together they leave a part of two cores to the kernel."""
RATES = (0.1, 0.3)
"""Link rates in Gb/s. Packets are worked on by the core that computes, and a fifth of a core does
not keep up with 1 Gb/s."""
SCHEMES = (PLAN, EQUAL_SPLIT, BY_SPEED, DDP, GPIPE)
STEPS = 24
"""Mini-batches of a run that tells the throughput; the pipeline fills and drains in some."""
FEW_STEPS = 5
"""Those of data parallelism, which has no pipeline to fill and takes seconds for each."""
LEARNED = ("3:1:1:1", 0.3)
"""Where all train until the loss is low."""
LEARNED_STEPS = 60
"""The mini-batches of those runs."""
WINDOW, LOSS = 10, 1.8
"""The loss to reach, as the mean of so many mini-batches; 12 classes begin at 2.5."""
OPTIONS = Options(
    scheme="pipeline",
    data="sparsepipe.experiments.kept_shapes:clouds",
    width=0.5,
    points=512,
    voxel_size=0.04,
    batch_size=32,
    test_clouds=48,
    lr_schedule="constant",
    learning_rate=0.02,
)


def cluster(box: str, rate: float) -> Cluster:
    """A cluster in this machine, a node for every rank."""
    nodes = [
        Node(
            name=f"node-{rank}",
            count=1,
            devices=(Device(kind=f"{share:g} of a core", core_share=share),),
            link=Link(bandwidth_bits_per_s=rate * 1e9),
        )
        for rank, share in enumerate(BOXES[box])
    ]
    name = f"unequal-{box.replace(':', '-')}-{rate:g}g"
    return Cluster(name=name, source="This machine, divided unequally", nodes=tuple(nodes))


def case_name(box: str, rate: float, scheme: str) -> str:
    """The name of a case."""
    return f"{box.replace(':', '-')} {rate:g}g {scheme}"


def _case(box: str, rate: float, scheme: str) -> Case:
    """Make the case of one scheme on one cluster."""
    steps = FEW_STEPS if scheme in (DDP, BY_SPEED) else STEPS
    if (box, rate) == LEARNED:
        steps = LEARNED_STEPS
    return Case(
        name=case_name(box, rate, scheme),
        options=dataclasses.replace(OPTIONS, steps=steps, **WHO[scheme]),
        nodes=len(BOXES[box]),
        cluster=cluster(box, rate),
        level="full",
    )


CASES = tuple(_case(box, rate, scheme) for box in BOXES for rate in RATES for scheme in SCHEMES)


@dataclass(frozen=True)
class Point:
    """One scheme on one cluster."""

    box: str
    rate: float
    scheme: str
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def place(self) -> str:
        """The cluster, in ids and tables."""
        return f"{self.box} {self.rate:g}g"

    @property
    def where(self) -> str:
        """The cluster, in a sentence."""
        return f"shares of a core {self.box}, {self.rate:g} Gb/s"

    @property
    def steps_s(self) -> list[float]:
        """The mean step time of every run, in the steady state."""
        return [OPTIONS.batch_size / run["samples_per_s"] for run in self.runs]

    @property
    def predicted_s(self) -> float:
        """The step time that was predicted from the layers' times on these ranks."""
        return median(run["predicted_step_s"] for run in self.runs)

    @property
    def learned(self) -> bool:
        """Whether its runs train until the loss is low."""
        return (self.box, self.rate) == LEARNED

    def seconds_to_loss(self) -> list[float]:
        """The seconds of training until the loss is low, by seed; none if a seed does not get
        there, or was not meant to."""
        times = [_seconds_to_loss(run) for run in self.runs] if self.learned else []
        reached = [seconds for seconds in times if seconds is not None]
        return reached if len(reached) == len(times) else []


def smoothed(run: Run) -> list[float]:
    """The mean loss of the last `WINDOW` steps, from the step on that has so many before it."""
    loss = run["loss"]
    return [mean(loss[end - WINDOW : end]) for end in range(WINDOW, len(loss) + 1)]


def _seconds_to_loss(run: Run) -> float | None:
    """The seconds until the loss is low, at the run's own pace; None if it never is."""
    pace_s = OPTIONS.batch_size / run["samples_per_s"]
    low = (step for step, loss in enumerate(smoothed(run), WINDOW) if loss <= LOSS)
    step = next(low, None)
    return None if step is None else step * pace_s


@dataclass(frozen=True)
class Trained:
    """All runs of the experiment."""

    results: Results

    @cached_property
    def rows(self) -> dict[tuple[str, float], dict[str, Point]]:
        """The points by cluster and then by scheme."""
        rows: dict[tuple[str, float], dict[str, Point]] = {}
        for box in BOXES:
            for rate in RATES:
                row = {scheme: self._point(box, rate, scheme) for scheme in SCHEMES}
                rows[box, rate] = {who: point for who, point in row.items() if point.runs}
        return {where: row for where, row in rows.items() if row}

    def _point(self, box: str, rate: float, scheme: str) -> Point:
        runs = self.results.get(case_name(box, rate, scheme), ())
        return Point(box, rate, scheme, tuple(runs))

    @property
    def points(self) -> list[Point]:
        """Every point."""
        return [point for row in self.rows.values() for point in row.values()]
