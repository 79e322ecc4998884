"""A pipeline before it runs: its plan, what each stage costs, its schedule, and that one played.

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
from sparsepipe.planner.plan import Order, Plan, digest
from sparsepipe.planner.target import check_links, target_cluster
from sparsepipe.schedule.costs import StageCost, stage_costs
from sparsepipe.schedule.lists import Schedule, Stages, build
from sparsepipe.schedule.play import Pipeline, play
from sparsepipe.train.plan_file import load_plan
from systems.clusters.cluster import Cluster, Link
from systems.profiles.profile import ModelProfile
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan, and the profiles that it was made from."""

    plan: Plan
    profiles: Mapping[str, ModelProfile]
    """By kind of device, at the plan's batch size."""
    mode: Literal["train", "infer"] = "train"

    @property
    def stages(self) -> Stages:
        """The ranks of every stage."""
        return tuple(tuple(r.rank for r in stage.replicas) for stage in self.plan.stages)

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Of each stage's replicas."""
        return tuple(tuple(r.share for r in stage.replicas) for stage in self.plan.stages)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(first, end) layer of every stage."""
        return [(stage.first, stage.end) for stage in self.plan.stages]

    @cached_property
    def planner_costs(self) -> Costs:
        """What the plan was made from."""
        used = {kind: self.profiles[kind] for kind in self.plan.profiles}
        return costs_of(used, self.plan.cluster)

    @cached_property
    def of_rank(self) -> dict[int, ModelProfile]:
        """The profile of every rank's device, those without a stage too."""
        return profiles_of_ranks(self.planner_costs, self.profiles)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The link of every rank, as the planner takes it."""
        groups = self.planner_costs.classes
        by_rank = {rank: group.link for group in groups for rank in group.ranks}
        return tuple(by_rank[rank] for rank in sorted(by_rank))

    @property
    def link(self) -> Link:
        """What the simulator gives all ranks."""
        return slowest_link(self.planner_costs)

    @cached_property
    def cut_bytes(self) -> tuple[float, ...]:
        """[layers + 1]: what crosses a cut before each layer, for a mini-batch."""
        return tuple(self.planner_costs.cut_bytes.tolist())

    @cached_property
    def costs(self) -> list[StageCost]:
        """Of every stage and micro-batch."""
        micro_batches = self.plan.schedule.micro_batches
        return stage_costs(
            *(self.of_rank, self.bounds, self.stages, self.shares, self.cut_bytes, micro_batches)
        )

    @property
    def order(self) -> Order | None:
        """Of an asynchronous schedule; None for one that flushes."""
        return self.plan.schedule.order

    @property
    def warm_up(self) -> int:
        """Mini-batches in which the pipeline fills, and as many in which it drains."""
        if self.mode == "infer":
            return len(self.stages)
        return 1 if self.order is None else max(self.order.in_flight)

    def schedule(self, steady: int) -> Schedule:
        """The lists, with so many mini-batches between the first and the last `warm_up` ones."""
        return self._built(2 * self.warm_up + steady)

    @cached_property
    def played(self) -> Pipeline:
        """The schedule, simulated."""
        flushes = self.mode == "train" and self.plan.schedule.flushes
        steady = 1 if flushes else PLAYED_STEPS
        return play(self.schedule(steady), self.costs, self.link)

    def _built(self, mini_batches: int) -> Schedule:
        if self.mode == "infer":
            return build("forward", self.stages, mini_batches=mini_batches)
        costs, order = self.costs, self.order
        return build(
            self.plan.schedule.name,
            self.stages,
            mini_batches=mini_batches,
            micro_batches=self.plan.schedule.micro_batches,
            in_flight=None if order is None else order.in_flight,
            late_updates=order is not None and order.late_updates,
            seconds=[(max(cost.forward_s), max(cost.backward_s)) for cost in costs],
            crossing_s=[
                self.link.seconds(cost.output_bytes) + self.link.latency_s for cost in costs[:-1]
            ],
        )


def described(planned: Planned) -> dict[str, Any]:
    """What a plan is, and what training with it was predicted to take."""
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


def plan_pipeline(options: Options, cluster: Cluster) -> Planned:
    """Plan what the options say, or read their plan.

    Raises:
        InputError: whatever is wrong with them, or a baseline that has no answer.
    """
    if options.plan is not None:
        return with_profiles(load_plan(options), options)
    target = target_cluster(cluster, options.devices, options.bandwidth_bits_per_s)
    check_links(target)
    profiles = profiles_by_kind(options.profiles, options.batch_size)
    schedule, micro_batches = options.schedule, options.micro_batches
    found: Plan | None
    if options.planner == "planner":
        found = planner.partition(
            profiles,
            target,
            schedule=schedule,
            micro_batches=micro_batches,
            virtual_stages=options.virtual_stages,
        )
    else:
        found = planner.baseline(
            options.planner, profiles, target, schedule=schedule, micro_batches=micro_batches
        )
    if found is None:
        raise InputError(
            f"--sparsepipe.planner {options.planner}: has no answer for {target.name}; "
            "give another one"
        )
    return Planned(plan=found, profiles=profiles, mode=options.mode)


def with_profiles(plan: Plan, options: Options) -> Planned:
    """A plan with the profiles that the options name, which must be those that it was made from.

    Raises:
        InputError: they are not.
    """
    profiles = profiles_by_kind(options.profiles, plan.batch_size)
    for kind, known in plan.profiles.items():
        if kind not in profiles or digest(profiles[kind]) != known:
            raise InputError(
                f"--sparsepipe.profiles {options.profiles}: the plan was made from another profile "
                f"of {kind}; give that one, or plan again"
            )
    return Planned(plan=plan, profiles=profiles, mode=options.mode)


def profiles_by_kind(names: str, batch_size: int | None) -> dict[str, ModelProfile]:
    """The profiles between commas by their devices, at a batch size; None: at their own.

    Raises:
        InputError: no such profile, or two of one device.
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
