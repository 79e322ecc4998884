"""A pipeline before it runs: its plan, what its stages cost, its schedule, and a simulation.

planned = plan_pipeline(options, cluster.load("titan-8"))
planned.plan.prediction.step_s, planned.played.step_s
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sparsepipe.options import Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.costs import Costs, costs_of
from sparsepipe.planner.order import PLAYED_STEPS, profiles_of_ranks, slowest_link
from sparsepipe.planner.plan import Plan, profile_digest
from sparsepipe.planner.stages import Order
from sparsepipe.planner.target import check_links, target_cluster
from sparsepipe.schedule.costs import StageCost, crossings_s, stage_costs
from sparsepipe.schedule.lists import Schedule, StageRanks, build_schedule
from sparsepipe.schedule.play import PlayedSchedule, play
from sparsepipe.train.plan_file import load_checked_plan
from systems import by_path
from systems.clusters.cluster import Cluster, Link
from systems.clusters.topology import Topology
from systems.profiles.profile import ModelProfile
from systems.rank_classes import PLAYED_ONE_BY_ONE
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class ProfiledPlan:
    """A plan with the profiles that it was made from, and all that follows from the two."""

    plan: Plan
    """The plan."""
    profiles: Mapping[str, ModelProfile]
    """The profile of each kind of device, at the batch size of the plan."""
    mode: Literal["train", "infer"] = "train"
    """Whether the pipeline trains, or only goes forward."""

    @property
    def stages(self) -> StageRanks:
        """The ranks that hold each stage."""
        return tuple(stage.ranks for stage in self.plan.stages)

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """The shares of the replicas of each stage."""
        return tuple(stage.shares for stage in self.plan.stages)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The bounds (first, end) of each stage: it has the layers first, ..., end - 1."""
        return [(stage.first, stage.end) for stage in self.plan.stages]

    @cached_property
    def planner_costs(self) -> Costs:
        """The arrays that the plan was made from."""
        used = {kind: self.profiles[kind] for kind in self.plan.profiles}
        return costs_of(used, self.plan.cluster)

    @cached_property
    def profile_of_rank(self) -> dict[int, ModelProfile]:
        """The profile of the device of every rank, also of ranks without a stage."""
        return profiles_of_ranks(self.planner_costs, self.profiles)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The link that every rank is planned with, by rank."""
        groups = self.planner_costs.classes
        by_rank = {rank: group.link for group in groups for rank in group.ranks}
        return tuple(by_rank[rank] for rank in sorted(by_rank))

    @property
    def link(self) -> Link:
        """The link that the simulator gives all ranks: the slowest one."""
        return slowest_link(self.planner_costs)

    @cached_property
    def cut_bytes(self) -> tuple[float, ...]:
        """[layers + 1]: the bytes that cross a cut before each layer, for a mini-batch."""
        return tuple(self.planner_costs.cut_bytes.tolist())

    @cached_property
    def costs(self) -> list[StageCost]:
        """What a micro-batch costs at each stage."""
        micro_batches = self.plan.schedule.micro_batches
        return stage_costs(
            self.profile_of_rank,
            self.bounds,
            self.stages,
            self.shares,
            self.cut_bytes,
            micro_batches,
        )

    @property
    def order(self) -> Order | None:
        """The order of an asynchronous schedule; None for one that flushes."""
        return self.plan.schedule.order

    @property
    def warm_up(self) -> int:
        """The number of mini-batches in which the pipeline fills; it drains in as many."""
        if self.mode == "infer":
            return len(self.stages)
        return 1 if self.order is None else max(self.order.in_flight)

    def schedule(self, steady: int) -> Schedule:
        """Build the lists of actions of all ranks, with `steady` mini-batches between filling and
        draining."""
        mini_batches = 2 * self.warm_up + steady
        if self.mode == "infer":
            return build_schedule("forward", self.stages, mini_batches=mini_batches)
        costs, order = self.costs, self.order
        return build_schedule(
            self.plan.schedule.name,
            self.stages,
            mini_batches=mini_batches,
            micro_batches=self.plan.schedule.micro_batches,
            in_flight=None if order is None else order.in_flight,
            late_updates=order is not None and order.late_updates,
            seconds=[(max(cost.forward_s), max(cost.backward_s)) for cost in costs],
            crossing_s=crossings_s(costs, self.link),
        )

    @cached_property
    def played(self) -> PlayedSchedule:
        """A simulation of the schedule, with a few mini-batches in the steady state."""
        return self.played_on(self.link)

    def played_on(self, network: Link | Topology, steady: int | None = None) -> PlayedSchedule:
        """A simulation of the schedule on other links.

        Args:
            steady: the mini-batches in the steady state; None takes a few.
        """
        if steady is None:
            flushes = self.mode == "train" and self.plan.schedule.flushes
            steady = 1 if flushes else PLAYED_STEPS
        every_rank = len(self.links) <= PLAYED_ONE_BY_ONE
        return play(self.schedule(steady), self.costs, network, every_rank=every_rank)


def describe_plan(planned: ProfiledPlan) -> dict[str, Any]:
    """The part of a result that a plan alone decides: what it is, and its predictions."""
    plan, prediction = planned.plan, planned.plan.prediction
    computing = {device.rank: device.compute_s for device in prediction.devices}
    common = {"planner": plan.planner, "model": plan.model, "samples_per_step": plan.batch_size}
    if planned.mode == "infer":
        return {"scheme": "forward", **common}
    return {
        "scheme": plan.schedule.name,
        **common,
        "micro_batches": plan.schedule.micro_batches,
        "in_flight": None if planned.order is None else planned.order.in_flight,
        "late_updates": None if planned.order is None else planned.order.late_updates,
        "predicted_step_s": prediction.step_s,
        "bound_s": plan.bound_s,
        "predicted_compute_s": [computing.get(r, 0.0) for r in range(len(planned.links))],
    }


def plan_pipeline(options: Options, cluster: Cluster) -> ProfiledPlan:
    """Plan what the options say for a cluster, or read the plan that they name.

    Raises:
        InputError: something is wrong with the options, or a baseline has no answer.
    """
    if options.plan is not None:
        return with_profiles(load_checked_plan(options), options)
    target = target_cluster(cluster, options.devices, options.bandwidth_bits_per_s)
    profiles = profiles_by_kind(options.profiles, options.batch_size)
    _check_model(profiles, options)
    return plan_from_profiles(options, target, profiles)


def plan_from_profiles(
    options: Options, target: Cluster, profiles: dict[str, ModelProfile]
) -> ProfiledPlan:
    """Plan what the options say for a cluster, from the profile of each kind of device.

    Raises:
        InputError: links that differ, or a baseline without an answer.
    """
    check_links(target)
    schedule, micro_batches = options.schedule, options.micro_batches
    plan: Plan | None
    if options.planner == "planner":
        plan = planner.partition(
            profiles,
            target,
            schedule=schedule,
            micro_batches=micro_batches,
            virtual_stages=options.virtual_stages,
        )
    else:
        plan = planner.baseline_plan(
            options.planner, profiles, target, schedule=schedule, micro_batches=micro_batches
        )
    if plan is None:
        raise InputError(
            f"--sparsepipe.planner {options.planner}: has no answer for {target.name}; "
            "give another one"
        )
    return ProfiledPlan(plan=plan, profiles=profiles, mode=options.mode)


def _check_model(profiles: Mapping[str, ModelProfile], options: Options) -> None:
    """Refuse profiles of another network than the options name."""
    model = by_path.short(options.model)
    for profile in profiles.values():
        if profile.name != model:
            raise InputError(
                f"--sparsepipe.profiles {options.profiles}: the profile of {profile.device} is of "
                f"{profile.name}, and the model is {model}; give --sparsepipe.model "
                f"{profile.name}, or make profiles of {model} with `testbed profile sparsepipe`"
            )


def with_profiles(plan: Plan, options: Options) -> ProfiledPlan:
    """A plan with the profiles that the options name.

    Raises:
        InputError: the plan was made from other profiles.
    """
    profiles = profiles_by_kind(options.profiles, plan.batch_size)
    for kind, digest in plan.profiles.items():
        if kind not in profiles or profile_digest(profiles[kind]) != digest:
            raise InputError(
                f"--sparsepipe.profiles {options.profiles}: the plan was made from another profile "
                f"of {kind}; give that one, or plan again"
            )
    return ProfiledPlan(plan=plan, profiles=profiles, mode=options.mode)


def profiles_by_kind(names: str, batch_size: int | None) -> dict[str, ModelProfile]:
    """Load the profiles that `names` lists between commas, by the kind of device.

    They are brought to a batch size; None leaves them at their own.

    Raises:
        InputError: there is no such profile, or there are two of one kind.
    """
    profiles: dict[str, ModelProfile] = {}
    for name in names.split(","):
        profile = planner.load_profile(name)
        if profile.device in profiles:
            raise InputError(f"--profiles {names}: two profiles of {profile.device}; give one")
        profiles[profile.device] = (
            profile if batch_size is None else profile.at_batch_size(batch_size)
        )
    return profiles
