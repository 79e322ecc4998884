"""The planner: as good as trying everything, and how long it takes."""

import math
import random
from pathlib import Path
from typing import Any

from sparsepipe.experiments.brute_force import brute_force, random_case
from sparsepipe.planner.contiguous import best_contiguous
from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.plan import partition
from sparsepipe.planner.predict import predict
from sparsepipe.planner.stages import ScheduleChoice
from sparsepipe.train.planned import profiles_by_kind
from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.figures.claims import Target, claim
from systems.figures.experiment import Outcome, Results, measure_once
from systems.measure import timed
from systems.profiles.profile import LayerProfile, ModelProfile

CASES = {"quick": 250, "full": 4000}
"""The number of random planning problems, of up to 8 layers and 4 devices."""
ROUNDING = 1e-9
LAYERS = 60
KINDS = {"A": 6, "B": 5, "C": 5}
EIGHT, SIXTEEN, BRUTE = "8 devices", "16 devices", "brute force"
MOST_S = {EIGHT: 1.0, SIXTEEN: 10.0}
WHAT = {
    EIGHT: "seconds to plan MinkVGG16-BN, 52 layers, for 4 TitanV and 4 TitanXp",
    SIXTEEN: f"seconds to plan {LAYERS} layers for 16 devices of 3 kinds",
}


def measure(level: str, folder: Path) -> Results:
    """Plan random cases both ways, and time two large ones."""
    return measure_once(
        folder,
        {
            BRUTE: lambda: [against_brute_force(CASES[level])],
            EIGHT: lambda: [{"seconds": timed(_plan_eight, repetitions=3).median}],
            SIXTEEN: lambda: [{"seconds": timed(_plan_sixteen, warm_up=0, repetitions=1).median}],
        },
    )


def against_brute_force(cases: int) -> dict[str, Any]:
    """How many random cases the planner answers as well as trying everything does."""
    equal, possible, worst = 0, 0, 0.0
    for seed in range(cases):
        case = random_case(random.Random(seed))
        least_s = brute_force(case)
        costs = costs_of(case.profiles, case.cluster)
        schedule = ScheduleChoice(name=case.schedule, micro_batches=case.micro_batches)  # type: ignore[arg-type]
        stages = best_contiguous(costs, schedule)
        if stages is None or math.isinf(least_s):
            equal += stages is None and math.isinf(least_s)
            continue
        away = abs(predict(costs, stages, schedule).step_s / least_s - 1)
        possible, equal, worst = possible + 1, equal + (away <= ROUNDING), max(worst, away)
    return {"cases": cases, "possible": possible, "equal": equal, "largest_difference": worst}


def _plan_eight() -> None:
    partition(profiles_by_kind("tv,txp", 128), cluster.load("titan-8"))


def _plan_sixteen() -> None:
    rng = random.Random(0)
    profiles = {kind: _random_profile(kind, rng) for kind in KINDS}
    devices = tuple(Device(kind=kind, count=count) for kind, count in KINDS.items())
    link = Link(bandwidth_bits_per_s=10e9)
    node = Node(name="n", devices=devices, link=link, device_link=link)
    partition(profiles, Cluster(name="random", source="drawn", nodes=(node,)))


def _random_profile(kind: str, rng: random.Random) -> ModelProfile:
    layers = tuple(
        LayerProfile(
            name=f"l{i}",
            operation="layer",
            forward_s=rng.random() / 100,
            backward_s=rng.random() / 50,
            activation_bytes=rng.randrange(10**6, 10**7),
            parameter_bytes=rng.randrange(10**5, 10**6),
            inputs=(f"l{i - 1}",) if i else (),
        )
        for i in range(LAYERS)
    )
    return ModelProfile(name="random", device=kind, batch_size=64, source="drawn", layers=layers)


def conclude(results: Results, folder: Path) -> Outcome:
    """Judge the plans and the time that planning takes; there is no figure."""
    (compared,) = results[BRUTE]
    equal = claim(
        "sparsepipe.planner-equals-brute-force.random.simulated",
        f"part of {compared['cases']} random cases of up to 8 layers and 4 devices "
        f"({compared['possible']} of them with an answer) in which the plan is as fast as the best "
        f"of all, largest relative difference {compared['largest_difference']:.1e}",
        [compared["equal"] / compared["cases"]],
        Target(least=1.0, unit="fraction"),
    )
    times = [
        claim(
            f"sparsepipe.planning-time.{name}.measured",
            WHAT[name],
            [run["seconds"] for run in results[name]],
            Target(most=most_s, unit="s"),
        )
        for name, most_s in MOST_S.items()
    ]
    return Outcome(figures=(), claims=(equal, *times))
