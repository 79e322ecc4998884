"""A plan that is read from a file, held against what the job says that it is run with.

plan = load_plan(options)                                   # --sparsepipe.plan
check_planned_for(plan, "titan-8", cluster.load("titan-8"), options)
"""

from pathlib import Path

from sparsepipe.options import PLANNERS, Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.plan import Plan
from sparsepipe.planner.target import (
    device_counts,
    device_counts_text,
    parse_device_counts,
    target_cluster,
)
from systems.clusters.cluster import Cluster
from systems.schema import InputError


def load_checked_plan(options: Options) -> Plan:
    """The plan in the file that the options name, which must say what they say.

    Raises:
        InputError: no such file, not a plan, or an option that says something else.
    """
    assert options.plan is not None  # the caller has looked
    plan = planner.load_plan(Path(options.plan))
    given, of_plan = _given(options), _planned(plan)
    for name, ours in given.items():
        theirs = of_plan[name]
        if ours != theirs:
            flag = f"--sparsepipe.{name.replace('_', '-')}"
            raise InputError(
                f"{flag} {_shown(ours)}: the plan {options.plan} has {_shown(theirs)}; "
                f"{_remedies(flag, theirs)}, or plan again with `launch plan sparsepipe`"
            )
    return plan


def _given(options: Options) -> dict[str, object]:
    """What options say that a plan says too; those that are left open are not there."""
    given = {
        "model": options.model,
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
    return {name: value for name, value in given.items() if value is not None}


def _planned(plan: Plan) -> dict[str, object]:
    """The same of a plan. None: links of several rates."""
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
    if theirs is None or theirs == () or flag.endswith("planner"):
        return f"leave {flag} out"
    return f"give {flag} {_shown(theirs)}"


def _shown(value: object) -> str:
    if value is None:
        return "several"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"  # shorter, and the same number
    return str(value)


def check_planned_for(plan: Plan, name: str, cluster: Cluster, options: Options) -> None:
    """Refuse a plan for other devices or links than those of the job's cluster.

    Args:
        name: what the user calls the cluster.

    Raises:
        InputError: saying what differs.
    """
    target = target_cluster(cluster, options.devices, options.bandwidth_bits_per_s)
    ours, theirs = (
        device_counts_text(device_counts(target)),
        device_counts_text(device_counts(plan.cluster)),
    )
    if ours != theirs:
        raise InputError(
            f"--cluster {name}: has {ours}, and the plan {options.plan} is for {theirs}; add "
            f"--sparsepipe.devices {theirs}, or plan again with `launch plan sparsepipe`"
        )
    if target.nodes != plan.cluster.nodes:
        raise InputError(
            f"--cluster {name}: its links or memory are not those that the plan {options.plan} was "
            f"made with, for {plan.cluster.name}; give that cluster and its rate, or plan again "
            "with `launch plan sparsepipe`"
        )
