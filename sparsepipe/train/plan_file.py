"""Reads a plan from a file, and refuses one that does not fit the job that it is to run with.

plan = load_plan(options)                                   # --sparsepipe.plan
check_planned_for(plan, "titan-8", cluster.load("titan-8"), options)
"""

from collections.abc import Sequence
from pathlib import Path

from sparsepipe.options import PLANNERS, Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.plan import Plan
from sparsepipe.planner.stages import PlannedStage
from sparsepipe.planner.target import (
    device_counts,
    device_counts_text,
    parse_device_counts,
    target_cluster,
)
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.schema import InputError


def load_checked_plan(options: Options) -> Plan:
    """Load the plan in the file that the options name.

    Raises:
        InputError: there is no such file, it holds no plan or an impossible one, or an option says
            something else than the plan.
    """
    assert options.plan is not None  # callers ask for a plan only if the options name one
    plan = planner.load_plan(Path(options.plan))
    check_planned_stages(plan.stages, f"--sparsepipe.plan {options.plan}")
    order = plan.schedule.order
    if order is not None and len(order.in_flight) != len(plan.stages):
        raise InputError(
            f"--sparsepipe.plan {options.plan}: has {len(plan.stages)} stages, and mini-batches in "
            f"flight at {len(order.in_flight)}; plan again"
        )
    of_plan = _said_by_plan(plan)
    for name, ours in _said_by_options(options).items():
        theirs = of_plan[name]
        if ours != theirs:
            flag = f"--sparsepipe.{name.replace('_', '-')}"
            raise InputError(
                f"{flag} {_shown(ours)}: the plan {options.plan} has {_shown(theirs)}; "
                f"{_remedies(flag, theirs)}, or plan again with `testbed plan sparsepipe`"
            )
    most = options.virtual_stages
    if most > 1 and len(plan.stages) > most:
        raise InputError(
            f"--sparsepipe.virtual-stages {most}: the plan {options.plan} has {len(plan.stages)} "
            "stages; leave it out, or plan again with `testbed plan sparsepipe`"
        )
    return plan


def check_planned_stages(stages: Sequence[PlannedStage], where: str) -> None:
    """Refuse stages that are not a division of layers and samples, as in a file edited by hand."""
    end = 0
    if not stages:
        raise InputError(f"{where}: has no stages; plan again")
    for number, stage in enumerate(stages):
        if not end == stage.first < stage.end:
            raise InputError(
                f"{where}: stage {number} has the layers from {stage.first} to before {stage.end}: "
                f"give it one or more, from {end} on"
            )
        if len(set(stage.ranks)) < max(1, len(stage.ranks)):
            raise InputError(
                f"{where}: stage {number} is on the ranks {list(stage.ranks)}: give each rank once"
            )
        if min(stage.shares) <= 0 or abs(sum(stage.shares) - 1) > 1e-6:
            raise InputError(
                f"{where}: stage {number} has the shares {list(stage.shares)}: give positive ones "
                "whose sum is 1"
            )
        end = stage.end


def _said_by_options(options: Options) -> dict[str, object]:
    """Return the settings that both options and plans have, as the options say them; options that
    are left open are not there."""
    values = {
        "model": by_path.short(options.model),
        "batch_size": options.batch_size,
        "schedule": options.schedule,
        "micro_batches": options.micro_batches,
        "cuts": options.cuts,
        "devices": None
        if options.devices is None
        else device_counts_text(parse_device_counts(options.devices)),
        "bandwidth_bits_per_s": options.bandwidth_bits_per_s,
        "planner": None if options.planner == PLANNERS[0] else options.planner,
    }
    return {name: value for name, value in values.items() if value is not None}


def _said_by_plan(plan: Plan) -> dict[str, object]:
    """Return the settings that both options and plans have, as the plan says them; the rate is None
    where links have several."""
    links = [link for node in plan.cluster.nodes for link in (node.link, node.device_link)]
    rates = {link.bandwidth_bits_per_s for link in links if link is not None}
    return {
        "model": plan.model,
        "batch_size": plan.batch_size,
        "schedule": plan.schedule.name,
        "micro_batches": plan.schedule.micro_batches,
        "cuts": tuple(stage.first for stage in plan.stages[1:]),
        "devices": device_counts_text(device_counts(plan.cluster)),
        "bandwidth_bits_per_s": rates.pop() if len(rates) == 1 else None,
        "planner": plan.planner,
    }


def _remedies(flag: str, theirs: object) -> str:
    """Say how to make an option agree with a plan."""
    if theirs is None or theirs == () or flag.endswith("planner"):
        return f"leave {flag} out"
    return f"give {flag} {_shown(theirs)}"


def _shown(value: object) -> str:
    """A value as one writes it on the command line."""
    if value is None:
        return "several"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"  # shorter, and the same number
    return str(value)


def check_planned_for(plan: Plan, name: str, cluster: Cluster, options: Options) -> None:
    """Refuse a plan that was made for other devices or links than those of the job's cluster.

    Args:
        name: what the user calls the cluster.

    Raises:
        InputError: they differ; the message says in what.
    """
    target = target_cluster(cluster, options.devices, options.bandwidth_bits_per_s)
    ours, theirs = (
        device_counts_text(device_counts(target)),
        device_counts_text(device_counts(plan.cluster)),
    )
    if ours != theirs:
        raise InputError(
            f"--cluster {name}: has {ours}, and the plan {options.plan} is for {theirs}; add "
            f"--sparsepipe.devices {theirs}, or plan again with `testbed plan sparsepipe`"
        )
    if target.nodes != plan.cluster.nodes:
        raise InputError(
            f"--cluster {name}: its links or memory are not those that the plan {options.plan} was "
            f"made with, for {plan.cluster.name}; give that cluster and its rate, or plan again "
            "with `testbed plan sparsepipe`"
        )
