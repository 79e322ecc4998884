"""Plans with virtual stages: a device may hold several stages, and take more of what it does best.

Devices work in teams whose members take equal shares of every stage. For given cuts the best shares
of all teams in all stages solve a linear programme; a team that gets nothing of a stage does not
hold it:

    stage         0 [0 .. 11]   1 [12 .. 30]   2 [31 .. 51]
    fast team        0.9            0.2            0.9        holds all three
    slow team        0.1            0.8            0.1

Some costs of a replica do not depend on its share: the all-reduce, stashed weights, the fixed parts
of times. A linear programme cannot charge them only where the share is not 0. So it is solved
twice: first with these costs growing with the share, which decides who holds which stage; then with
these costs charged whole to those who hold it, which decides the shares.

Two divisions into teams are tried: the classes of devices, and these divided further by the stages
of the best contiguous plan, which keeps all-reduces as small as there. Cuts are found greedily:
starting from one stage, the cut that helps most is added, then each is shifted as long as that
helps. This may miss the best plan; `sparsepipe.planner.plan.partition` takes the result only where
it beats the exact contiguous plan.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsepipe.planner.costs import STATE_COPIES, Costs, Floats
from sparsepipe.planner.lanes import lane_count, sizes_in_lanes
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice

WORTH_IT = 1.005
"""A plan of more stages stashes and delays more, so it must be faster by this factor."""
SMALLEST = 0.005
"""A team that would take less than this part of a mini-batch does not hold the stage."""
SHIFT = 4
"""The most layers by which a cut is moved at once."""


@dataclass(frozen=True)
class Team:
    """Devices of one class that take equal shares of every stage."""

    device_class: int
    """The number of the class in `Costs.classes`."""
    ranks: tuple[int, ...]
    """The ranks of its members."""


def best_virtual(
    costs: Costs, schedule: ScheduleChoice, contiguous: tuple[PlannedStage, ...] | None, most: int
) -> tuple[PlannedStage, ...] | None:
    """The fastest stages that the search finds, `most` at most; None if none fit into memory."""
    used = [group.ranks[:n] for group, n in zip(costs.classes, sizes_in_lanes(costs), strict=True)]
    groupings = [[Team(c, ranks) for c, ranks in enumerate(used) if ranks]]
    if contiguous is not None:
        groupings.append(_teams_of(costs, used, contiguous))
    best, best_s = None, np.inf
    for teams in groupings:
        edges = [0, costs.layers]
        while len(edges) <= min(most, costs.layers):
            edges = _one_more(costs, schedule, teams, edges)
            stages = _settle(costs, schedule, teams, edges)
            if stages is None:
                continue
            prediction = predict(costs, stages, schedule)
            if not devices_lacking_memory(prediction) and prediction.step_s * WORTH_IT < best_s:
                best, best_s = stages, prediction.step_s
    return best


def _teams_of(
    costs: Costs, used: Iterable[tuple[int, ...]], stages: tuple[PlannedStage, ...]
) -> list[Team]:
    """The devices of each class that are used, divided by their stage in `stages`."""
    stage_of = {replica.rank: s for s, stage in enumerate(stages) for replica in stage.replicas}
    teams: dict[tuple[int, int], list[int]] = {}
    for rank in sorted(itertools.chain.from_iterable(used)):
        teams.setdefault((costs.class_of[rank], stage_of.get(rank, -1)), []).append(rank)
    lanes = lane_count(costs)
    whole = {team: len(ranks) - len(ranks) % lanes for team, ranks in teams.items()}
    return [Team(c, tuple(teams[c, s][:n])) for (c, s), n in whole.items() if n]


def _one_more(
    costs: Costs, schedule: ScheduleChoice, teams: list[Team], edges: list[int]
) -> list[int]:
    """Add the cut that helps most to the edges of the stages, then shift each cut if that helps."""

    def seconds(inner: list[int]) -> float:
        """The step with these cuts; infinite if memory does not suffice."""
        solved = _best_shares(costs, schedule, teams, sorted([0, *inner, costs.layers]), None)
        return np.inf if solved is None else solved[0]

    def placed(others: list[int], candidates: range) -> tuple[float, list[int]]:
        """The best cut among `candidates`: the step with it, and all cuts."""
        free = [j for j in candidates if 0 < j < costs.layers and j not in others]
        return min((seconds([*others, j]), [*others, j]) for j in free)

    best_s, inner = placed(edges[1:-1], range(1, costs.layers))
    for cut in list(inner):
        others = [j for j in inner if j != cut]
        shifted_s, shifted = placed(others, range(cut - SHIFT, cut + SHIFT + 1))
        if shifted_s < best_s:
            best_s, inner = shifted_s, shifted
    return sorted([0, *inner, costs.layers])


def _settle(
    costs: Costs, schedule: ScheduleChoice, teams: list[Team], edges: list[int]
) -> tuple[PlannedStage, ...] | None:
    """Decide which team holds which stage, then the shares; None if memory does not suffice."""
    members = np.array([len(team.ranks) for team in teams])[:, None]
    loose = _best_shares(costs, schedule, teams, edges, None)
    if loose is None:
        return None
    exact = _best_shares(costs, schedule, teams, edges, loose[1] * members > SMALLEST)
    if exact is None:
        return None
    shares = np.where(exact[1] * members > SMALLEST / 10, exact[1], 0.0)
    shares = shares / (shares * members).sum(axis=0)
    # Where no share changes at a cut, the stages on both sides are one.
    kept = [0, *(r for r in range(1, len(edges) - 1) if _differ(shares[:, r - 1], shares[:, r]))]
    ends = [*kept[1:], len(edges) - 1]
    return tuple(
        PlannedStage(first=edges[r], end=edges[end], replicas=_replicas(costs, teams, shares[:, r]))
        for r, end in zip(kept, ends, strict=True)
    )


def _differ(a: Floats, b: Floats) -> bool:
    """Whether two stages have different shares."""
    return not np.allclose(a, b, rtol=0, atol=1e-9)


def _replicas(costs: Costs, teams: list[Team], shares: Floats) -> tuple[Replica, ...]:
    """The members of all teams that have a share of a stage, lane by lane; `shares` [T] is a
    member's."""
    lanes = lane_count(costs)
    return tuple(
        Replica(rank=rank, device=costs.classes[team.device_class].kind, share=float(share))
        for lane in range(lanes)
        for team, share in zip(teams, shares, strict=True)
        for rank in np.reshape(team.ranks, (lanes, -1))[lane].tolist()
        if share > 0
    )


def _best_shares(
    costs: Costs,
    schedule: ScheduleChoice,
    teams: list[Team],
    edges: list[int],
    holds: NDArray[np.bool_] | None,
) -> tuple[float, Floats] | None:
    """Find the shares of T teams in R stages with which the busiest device is done soonest.

    The variables of the linear programme are x[t, r], the share of one device of team t in stage r;
    u[t, r], by how much that changes at an inner cut, which is what must be sent there; and the
    seconds of the busiest device.

    Args:
        edges: [R + 1] the first layer of every stage, and the end.
        holds: [T, R] which stages a team holds; it is charged their fixed costs whole. None: a team
            may hold any stage, and is charged these costs in proportion to its share.

    Returns:
        The seconds, and the shares [T, R]; None if memory does not suffice.
    """
    of_team = [team.device_class for team in teams]
    members = np.array([float(len(team.ranks)) for team in teams])[:, None]
    first, end = np.array(edges[:-1]), np.array(edges[1:])
    t, r = len(teams), len(first)

    def between(sums: Floats) -> Floats:
        """[..., R]: the part of running sums that lies in each stage."""
        difference: Floats = sums[..., end] - sums[..., first]
        return difference

    per_byte = np.array([costs.classes[c].seconds_per_byte for c in of_team])[:, None]
    replicas = members if holds is None else np.maximum(1, (members * holds).sum(axis=0))[None]
    weights = between(costs.parameter_bytes)[None]
    fixed = between(costs.fixed_forward_s + costs.fixed_backward_s)[of_team]
    fixed_memory = weights * [schedule.versions(r - s) + STATE_COPIES for s in range(r)]
    updates = between(costs.update_s)[of_team]
    # What a replica is charged whatever its share; what grows with the share; what there is.
    charges = {
        "compute": fixed * schedule.micro_batches + updates,
        "transfer": 2 * (replicas - 1) / replicas * weights * per_byte,
        "memory": np.repeat(fixed_memory, t, axis=0),
    }
    outputs = between(costs.output_bytes) + costs.cut_bytes[first]
    activations = outputs * [schedule.in_flight(r - s) for s in range(r)]
    slopes = {
        "compute": between(costs.forward_s + costs.backward_s)[of_team] - fixed,
        "transfer": np.zeros((t, r)),
        "memory": np.repeat(activations[None], t, axis=0),
    }
    limits = {
        "compute": np.zeros(t),
        "transfer": np.zeros(t),
        "memory": np.array([costs.classes[c].memory_bytes for c in of_team]),
    }
    for what, charge in charges.items():
        if holds is None:
            slopes[what] = slopes[what] + charge * members
        else:
            limits[what] = limits[what] - (charge * holds).sum(axis=1)
    return _solve(slopes, limits, costs.cut_bytes[first[1:]] * per_byte, members, holds)


def _solve(
    slopes: dict[str, Floats],
    limits: dict[str, Floats],
    cut_s: Floats,
    members: Floats,
    holds: NDArray[np.bool_] | None,
) -> tuple[float, Floats] | None:
    """Solve the linear programme of `_best_shares`.

    Args:
        slopes: "compute", "transfer" and "memory" [T, R] of a device that takes a whole stage.
        limits: [T] of each, what the fixed costs leave: slopes times shares may not exceed it, nor,
            for compute and transfer, it and the seconds together.
        cut_s: [T, R - 1] the seconds to move a whole mini-batch over an inner cut.
        members: [T, 1] the number of devices in each team.
        holds: as for `_best_shares`.
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]  # slow to import

    t, r = slopes["compute"].shape
    changes = t * (r - 1)

    def by_team(coefficients: Floats) -> Floats:
        """[T, T * R]: rows that sum over the stages of one team each."""
        return (np.eye(t)[:, :, None] * coefficients[None]).reshape(t, -1)

    seconds = np.ones((t, 1))
    rows = [
        np.hstack([by_team(slopes["compute"]), np.zeros((t, changes)), -seconds]),
        np.hstack([by_team(slopes["transfer"]), by_team(cut_s), -seconds]),
    ]
    at_most = [limits["compute"], limits["transfer"]]
    finite = np.isfinite(limits["memory"])
    # Memory in units of its limit: bytes beside seconds would be badly scaled.
    unit = np.where(finite, np.maximum(1.0, np.abs(limits["memory"])), 1.0)[:, None]
    memory = np.hstack([by_team(slopes["memory"] / unit), np.zeros((t, changes + 1))])
    rows.append(memory[finite])
    at_most.append((limits["memory"] / unit[:, 0])[finite])
    # u >= x[t, r + 1] - x[t, r], and u >= its negative.
    change = np.kron(np.eye(t), np.diff(np.eye(r), axis=0))
    for sign in (1, -1):
        rows.append(np.hstack([sign * change, -np.eye(changes), np.zeros((changes, 1))]))
        at_most.append(np.zeros(changes))
    # The shares of every stage sum to 1.
    whole = np.hstack([np.kron(members.T, np.eye(r)), np.zeros((r, changes + 1))])
    most = np.ones(t * r) if holds is None else holds.ravel().astype(float)
    solved = linprog(
        c=np.append(np.zeros(t * r + changes), 1.0),
        A_ub=np.vstack(rows),
        b_ub=np.concatenate(at_most),
        A_eq=whole,
        b_eq=np.ones(r),
        bounds=[*((0, x) for x in most), *((0, None) for _ in range(changes + 1))],
    )
    return (float(solved.fun), solved.x[: t * r].reshape(t, r)) if solved.success else None
