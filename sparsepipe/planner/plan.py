"""The planner: from a profile of every kind of device and a cluster to a `Plan`.

    python -m launch plan sparsepipe --profiles tv,txp --cluster titan-8

The cost model is in `sparsepipe.planner.predict`. The answer is exact in this sense: with one stage
a device, a plan for `1f1b` or `1f1b-async` is the best of all divisions into stages and all
assignments of devices (`contiguous`). That holds

- for links as `costs.planned_link` takes them, which is the whole truth in a cluster of one node or
  of one device a node;
- where memory suffices for so many mini-batches in flight that all messages are hidden (`order`).
  Where it does not, the plan is the best of those that were found without such a limit.

The answer is not exact in these cases: many devices of many kinds, such as 16 of each of 4 kinds,
or more than 64 in all, are searched in blocks (`blocks`, `lanes`), which the name of the plan says;
`gpipe` takes the best `1f1b` plan; the shares within a stage of a flushing schedule balance its
steady state and not its fill (`shares`); plans with virtual stages come from a search that may miss
the best (`virtual`). No plan is predicted to be slower than data parallelism or one device.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sparsepipe.planner.baselines import BASELINES
from sparsepipe.planner.bound import fractional_bound
from sparsepipe.planner.contiguous import best_contiguous, is_exact
from sparsepipe.planner.costs import Costs, costs_of
from sparsepipe.planner.order import best_order
from sparsepipe.planner.predict import check_memory, devices_lacking_memory, predict
from sparsepipe.planner.stages import PlannedStage, Prediction, ScheduleChoice, ScheduleName
from sparsepipe.planner.virtual import best_virtual
from systems import schema
from systems.clusters.cluster import Cluster
from systems.profiles import profile as profile_files
from systems.profiles.profile import ModelProfile
from systems.runs import record
from systems.schema import InputError

PROFILES = Path(__file__).parents[1] / "profiles"
"""The folder of the measured profiles that ship with the testbed."""
SHORT_NAMES = {"tv": "titanv", "txp": "titanxp"}
"""Short names of some of them."""
MICRO_BATCHES = (1, 2, 4, 8, 16)
"""The numbers that are tried for a flushing schedule if none is given."""
ONE_STAGE = "one stage a device"
"""What plans of the exact search are called."""
IN_BLOCKS = "one stage a device, searched in blocks"
"""What plans are called for more devices and kinds than can be searched exactly."""
PLAIN = ("one device", "data parallel, equal shares", "data parallel, shares by speed")
"""The baselines that the planner considers too, so that none of them beats it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who computes what, and what that is predicted to take; it can be written to a JSON file."""

    planner: str
    """The planner or baseline that answered."""
    model: str
    """The model's name in the profiles."""
    batch_size: int
    """The samples of a mini-batch."""
    schedule: ScheduleChoice
    """The schedule that it is for."""
    stages: tuple[PlannedStage, ...]
    """In the order of the layers; every layer is in one. A device is in one stage at most, or with
    virtual stages in several."""
    prediction: Prediction
    """The predicted time and memory."""
    bound_s: float
    """The lower bound on the seconds of a step, see `sparsepipe.planner.bound`."""
    cluster: Cluster
    """The cluster that it was made for, with its links and memory limits."""
    profiles: dict[str, str]
    """The `profile_digest` of the profile of every kind of device."""

    def __post_init__(self) -> None:
        if self.schedule.order is None and not self.schedule.flushes:
            raise InputError("plan: has no order of its mini-batches in flight; plan again")

    @property
    def samples_per_s(self) -> float:
        """The predicted throughput."""
        return self.batch_size / self.prediction.step_s

    @property
    def above_bound(self) -> float:
        """The part by which a step is longer than the bound; 0 is the smallest possible."""
        return self.prediction.step_s / self.bound_s - 1


def partition(
    profiles: dict[str, ModelProfile],
    cluster: Cluster,
    *,
    schedule: str = "1f1b-async",
    micro_batches: int | None = None,
    virtual_stages: int = 1,
) -> Plan:
    """The plan with the shortest predicted step.

    Args:
        profiles: for every kind of device in `cluster`, the profile of one model. All are at one
            batch size, which is that of the plan (`ModelProfile.at_batch_size` changes it).
        cluster: a rank is one of its devices: nodes in order, the devices of each in order.
        schedule: `1f1b-async`, `1f1b` or `gpipe`, see `ScheduleChoice`.
        micro_batches: the number for a flushing schedule; None: the best of `MICRO_BATCHES`.
        virtual_stages: above 1, devices may hold several stages, and this is the most that the plan
            may have.

    Raises:
        InputError: a kind of device has no profile, profiles do not match, the rate of a link is
            not known, or memory does not suffice; the message names the device and the bytes.
    """
    if virtual_stages < 1:
        raise InputError(f"--virtual-stages {virtual_stages}: give 1 or more")
    costs = costs_of(profiles, cluster)
    bound_s = fractional_bound(costs)
    best: Plan | None = None
    for kind in _schedules(schedule, micro_batches, costs.batch_size):
        for planner, stages in _candidates(costs, kind, virtual_stages):
            if best is not None and predict(costs, stages, kind).step_s >= best.prediction.step_s:
                continue
            plan = _plan(planner, stages, costs, kind, bound_s, profiles, cluster)
            if fits_memory(plan) and (
                best is None or plan.prediction.step_s < best.prediction.step_s
            ):
                best = plan
    if best is None:
        raise _does_not_fit(costs, _schedules(schedule, micro_batches, costs.batch_size)[0])
    return best


def _candidates(
    costs: Costs, schedule: ScheduleChoice, virtual_stages: int
) -> list[tuple[str, tuple[PlannedStage, ...]]]:
    """The stages to choose from, as (planner, stages); of equally fast ones the first is taken."""
    contiguous = best_contiguous(costs, schedule)
    answers: list[tuple[str, tuple[PlannedStage, ...] | None]] = [
        (ONE_STAGE if is_exact(costs) else IN_BLOCKS, contiguous),
        *((name, BASELINES[name](costs, schedule)) for name in PLAIN),
    ]
    if virtual_stages > 1:
        virtual = best_virtual(costs, schedule, contiguous, virtual_stages)
        answers.append(("virtual stages", virtual))
    return [(planner, stages) for planner, stages in answers if stages is not None]


def _schedules(name: str, micro_batches: int | None, batch_size: int) -> list[ScheduleChoice]:
    """The schedules to try: one, or one for each of `MICRO_BATCHES`."""
    first = ScheduleChoice(name=cast(ScheduleName, name), micro_batches=micro_batches or 1)
    if micro_batches is not None and micro_batches > batch_size:
        raise InputError(
            f"--micro-batches {micro_batches}: a mini-batch has only {batch_size} samples"
        )
    if micro_batches is not None or not first.flushes:
        return [first]
    return [dataclasses.replace(first, micro_batches=m) for m in MICRO_BATCHES if m <= batch_size]


def _plan(
    planner: str,
    stages: tuple[PlannedStage, ...],
    costs: Costs,
    schedule: ScheduleChoice,
    bound_s: float,
    profiles: dict[str, ModelProfile],
    cluster: Cluster,
) -> Plan:
    """Complete a plan from its stages: choose the order of mini-batches, and predict the step."""
    kinds = sorted({group.kind for group in costs.classes})
    limited_s = 0.0  # the step if memory does not suffice to hide all messages
    if not schedule.flushes:
        schedule, limited_s = best_order(costs, stages, schedule, profiles)
    prediction = predict(costs, stages, schedule)
    prediction = dataclasses.replace(prediction, step_s=max(prediction.step_s, limited_s))
    return Plan(
        planner=planner,
        model=profiles[kinds[0]].name,
        batch_size=costs.batch_size,
        schedule=schedule,
        stages=stages,
        prediction=prediction,
        bound_s=bound_s,
        cluster=cluster,
        profiles={kind: profile_digest(profiles[kind]) for kind in kinds},
    )


def _does_not_fit(costs: Costs, schedule: ScheduleChoice) -> InputError:
    """The error that says which memory the plan lacks that is best where memory is no limit."""
    groups = tuple(dataclasses.replace(group, memory_bytes=float("inf")) for group in costs.classes)
    stages = best_contiguous(dataclasses.replace(costs, classes=groups), schedule)
    assert stages is not None  # without memory limits there always is a plan
    try:
        check_memory(
            predict(costs, stages, schedule),
            "no plan fits; in the one that is fastest without limits",
        )
    except InputError as error:
        return error
    raise AssertionError("a plan was found that fits")


def baseline_plan(
    name: str,
    profiles: dict[str, ModelProfile],
    cluster: Cluster,
    *,
    schedule: str = "1f1b-async",
    micro_batches: int | None = None,
) -> Plan | None:
    """The plan of the baseline `name`, one of `BASELINES`; None where it has no answer.

    The other arguments are those of `partition`. The plan may need more memory than there is, see
    `fits_memory`.

    Raises:
        InputError: no such baseline, or what `partition` refuses, memory aside.
    """
    if name not in BASELINES:
        raise InputError(f"baseline {name}: {schema.remedy(name, BASELINES)}")
    costs = costs_of(profiles, cluster)
    bound_s = fractional_bound(costs)
    plans = []
    for kind in _schedules(schedule, micro_batches, costs.batch_size):
        stages = BASELINES[name](costs, kind)
        if stages is not None:
            plans.append(_plan(name, stages, costs, kind, bound_s, profiles, cluster))
    return min(plans, key=lambda plan: plan.prediction.step_s, default=None)


def baseline_plans(
    profiles: dict[str, ModelProfile],
    cluster: Cluster,
    *,
    schedule: str = "1f1b-async",
    micro_batches: int | None = None,
) -> tuple[Plan, ...]:
    """The plans of all baselines that have an answer; the arguments are those of `partition`."""
    every = (
        baseline_plan(name, profiles, cluster, schedule=schedule, micro_batches=micro_batches)
        for name in BASELINES
    )
    return tuple(plan for plan in every if plan is not None)


def fits_memory(plan: Plan) -> bool:
    """Whether the memory of every device suffices for a plan."""
    return not devices_lacking_memory(plan.prediction)


def profile_digest(profile: ModelProfile) -> str:
    """The SHA-256 of the contents of a profile, whatever file it came from."""
    return hashlib.sha256(schema.to_json(schema.dump(profile), sort_keys=True).encode()).hexdigest()


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan to a file as JSON."""
    record.write_json(path, schema.dump(plan))


def load_plan(path: Path) -> Plan:
    """Read a plan from a file that `save_plan` wrote.

    Raises:
        InputError: there is no such file, or it does not hold a plan.
    """
    return schema.load(Plan, path, "plan", "testbed plan sparsepipe --out")


def shipped_profiles() -> dict[str, Path]:
    """The files of the measured profiles that ship with the testbed, by name and by short name."""
    shipped = {path.stem: path for path in sorted(PROFILES.glob("*.json"))}
    return shipped | {short: shipped[name] for short, name in SHORT_NAMES.items()}


def load_profile(name: str) -> ModelProfile:
    """Load the profile `name`: a shipped one, or a JSON file.

    Raises:
        InputError: it is neither.
    """
    return profile_files.named(name, shipped_profiles(), "--profiles")
