"""Finds what is wrong with a schedule: the oracle that `build_schedule` is tested with.

    assert not faults(schedule)

The lists are executed symbolically: a receive blocks until the messages of all senders are there, a
reduce until all replicas are at it; everything else goes on at once. (Replicas that share no sample
exchange no message, so a real run has fewer messages than this one, never others.)
"""

from collections import defaultdict
from collections.abc import Iterator

from sparsepipe.schedule.lists import Action, ActionKind, Schedule

_SENDS = {
    ActionKind.RECEIVE_ACTIVATION: ActionKind.SEND_ACTIVATION,
    ActionKind.RECEIVE_GRADIENT: ActionKind.SEND_GRADIENT,
}
_BEFORE = {
    ActionKind.SEND_ACTIVATION: ActionKind.FORWARD,
    ActionKind.SEND_GRADIENT: ActionKind.BACKWARD,
    ActionKind.BACKWARD: ActionKind.FORWARD,
}
"""Kinds of actions that must come after another kind, for the same stage and micro-batch."""


def schedule_faults(schedule: Schedule) -> list[str]:
    """Everything that is wrong, a sentence each; empty if nothing is."""
    return [
        *_unmatched(schedule),
        *_deadlock(schedule),
        *(fault for rank in range(len(schedule.ranks)) for fault in _order(schedule, rank)),
        *(fault for rank in range(len(schedule.ranks)) for fault in _weights(schedule, rank)),
    ]


def most_in_flight(schedule: Schedule, rank: int, stage: int) -> int:
    """The most micro-batches that a rank holds at a stage between their forward and backward."""
    count = most = 0
    for action in schedule.ranks[rank]:
        if action.stage == stage and action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD):
            count += 1 if action.kind is ActionKind.FORWARD else -1
            most = max(most, count)
    return most


def _receivers(schedule: Schedule, action: Action) -> tuple[int, ...]:
    """The ranks that may get the message of a send."""
    return schedule.stages[action.stage + (1 if action.kind is ActionKind.SEND_ACTIVATION else -1)]


def _senders(schedule: Schedule, action: Action) -> tuple[int, ...]:
    """The ranks that may send the message that a receive waits for."""
    return schedule.stages[action.stage + (1 if action.kind is ActionKind.RECEIVE_GRADIENT else -1)]


Messages = defaultdict[tuple[ActionKind, int, int, int], list[int]]
"""The micro-batches in their order, by (kind of send, sending stage, sender, receiver)."""


def _messages(schedule: Schedule) -> tuple[Messages, Messages]:
    """All messages in the order in which they are sent, and in the order of their receives."""
    sent: Messages = defaultdict(list)
    received: Messages = defaultdict(list)
    for rank, actions in enumerate(schedule.ranks):
        for action in actions:
            if action.kind in _SENDS.values():
                for peer in _receivers(schedule, action):
                    sent[action.kind, action.stage, rank, peer].append(action.micro_batch)
            elif action.kind in _SENDS:
                source = action.stage + (1 if action.kind is ActionKind.RECEIVE_GRADIENT else -1)
                for peer in _senders(schedule, action):
                    key = (_SENDS[action.kind], source, peer, rank)
                    received[key].append(action.micro_batch)
    return sent, received


def _unmatched(schedule: Schedule) -> Iterator[str]:
    """Messages that are sent or received only, twice, or in different orders."""
    sent, received = _messages(schedule)
    for key in sorted(sent.keys() | received.keys()):
        kind, stage, sender, receiver = key
        ours, theirs = sent[key], received[key]
        what = f"{kind} of stage {stage}, rank {sender} to rank {receiver}"
        if lost := sorted(set(ours) - set(theirs)):
            yield f"{what}: micro-batches {lost} are never received"
        if missing := sorted(set(theirs) - set(ours)):
            yield f"{what}: micro-batches {missing} are never sent"
        if sorted(ours) == sorted(theirs) and ours != theirs:
            yield f"{what}: received in another order than sent"
        if len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs):
            yield f"{what}: a micro-batch more than once"


def _deadlock(schedule: Schedule) -> Iterator[str]:
    """Advance every rank until it blocks; name each that does not reach the end of its list."""
    position = [0] * len(schedule.ranks)
    sent: set[tuple[ActionKind, int, int, int]] = set()  # action, stage, rank, micro-batch

    def blocked(action: Action) -> bool:
        if action.kind in _SENDS:
            source = action.stage + (1 if action.kind is ActionKind.RECEIVE_GRADIENT else -1)
            return not all(
                (_SENDS[action.kind], source, peer, action.micro_batch) in sent
                for peer in _senders(schedule, action)
            )
        return action.kind is ActionKind.REDUCE and not all(
            _at(schedule, peer, position[peer]) == action for peer in schedule.stages[action.stage]
        )

    moved = True
    while moved:
        moved = False
        for rank in range(len(schedule.ranks)):
            while (action := _at(schedule, rank, position[rank])) and not blocked(action):
                together = action.kind is ActionKind.REDUCE
                for peer in schedule.stages[action.stage] if together else (rank,):
                    position[peer] += 1
                sent.add((action.kind, action.stage, rank, action.micro_batch))
                moved = True
    for rank in range(len(schedule.ranks)):
        if (action := _at(schedule, rank, position[rank])) is not None:
            yield f"deadlock: rank {rank} waits for ever in {action}"


def _at(schedule: Schedule, rank: int, position: int) -> Action | None:
    actions = schedule.ranks[rank]
    return actions[position] if position < len(actions) else None


def _order(schedule: Schedule, rank: int) -> Iterator[str]:
    """Actions that come before what they need, are missing, or are there twice."""
    seen: set[tuple[ActionKind, int, int]] = set()
    stages = [stage for stage, ranks in enumerate(schedule.stages) if rank in ranks]
    for action in schedule.ranks[rank]:
        key = (action.kind, action.stage, action.micro_batch)
        if action.stage not in stages:
            yield f"rank {rank}: {action}: it does not hold this stage"
        if key in seen:
            yield f"rank {rank}: {action}: twice"
        needs = _needs(schedule, action)
        if needs is not None and (needs, action.stage, action.micro_batch) not in seen:
            yield f"rank {rank}: {action}: before its {needs}"
        seen.add(key)
    for stage in stages:
        for micro in range(schedule.mini_batches * schedule.micro_batches):
            for kind in _every(schedule, stage, micro):
                if (kind, stage, micro) not in seen:
                    yield f"rank {rank}: no {Action(kind, stage, micro)}"


def _needs(schedule: Schedule, action: Action) -> ActionKind | None:
    """The kind of action that must come before this one, at its stage and micro-batch."""
    last = len(schedule.stages) - 1
    if action.kind is ActionKind.FORWARD and action.stage > 0:
        return ActionKind.RECEIVE_ACTIVATION
    if action.kind is ActionKind.BACKWARD and action.stage < last:
        return ActionKind.RECEIVE_GRADIENT
    return _BEFORE.get(action.kind)


def _every(schedule: Schedule, stage: int, micro: int) -> Iterator[ActionKind]:
    """The kinds of actions that every micro-batch needs at a stage, its receives left out."""
    yield ActionKind.FORWARD
    if stage < len(schedule.stages) - 1:
        yield ActionKind.SEND_ACTIVATION
    if schedule.kind == "forward":
        return
    yield ActionKind.BACKWARD
    if stage > 0:
        yield ActionKind.SEND_GRADIENT
    if (micro + 1) % schedule.micro_batches == 0:
        yield ActionKind.UPDATE
        if len(schedule.stages[stage]) > 1:
            yield ActionKind.REDUCE


def _weights(schedule: Schedule, rank: int) -> Iterator[str]:
    """Wrong versions of weights, and versions that are never dropped."""
    weights = _Weights(schedule)
    check = {
        ActionKind.FORWARD: weights.forward,
        ActionKind.BACKWARD: weights.backward,
        ActionKind.REDUCE: weights.reduce,
        ActionKind.UPDATE: weights.update,
    }
    for action in schedule.ranks[rank]:
        if action.kind in check:
            for fault in check[action.kind](action):
                yield f"rank {rank}: {action}: {fault}"
    for stage, users in weights.users.items():
        if users:
            yield f"rank {rank}: stage {stage} never drops weights {sorted(set(users.values()))}"


class _Weights:
    """The weights and gradients of one rank's stages, as its list goes by."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._current: defaultdict[int, int] = defaultdict(int)
        self._gathered: defaultdict[int, set[int]] = defaultdict(set)  # and not yet applied
        self._reduced: set[tuple[int, int]] = set()
        self.users: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """By stage: the micro-batches on their way, and the version that each has met."""

    def forward(self, action: Action) -> Iterator[str]:
        current = self._current[action.stage]
        if action.version != current:
            yield f"the weights there are {current}"
        expected = self._schedule.version(action.stage, action.micro_batch)
        if action.version != expected:
            yield f"stale, {self._schedule.kind} asks for weights {expected}"
        if self._schedule.kind != "forward":
            self.users[action.stage][action.micro_batch] = current

    def backward(self, action: Action) -> Iterator[str]:
        forward = self.users[action.stage].pop(action.micro_batch, None)
        if action.version != forward:
            yield f"its forward had weights {forward}"
        if (action.stage, action.micro_batch) in self._reduced:
            yield "after the reduce of its gradients"
        self._gathered[action.stage].add(action.micro_batch)

    def reduce(self, action: Action) -> Iterator[str]:
        self._reduced |= {(action.stage, micro) for micro in self._mini_batch(action)}
        yield from ()

    def update(self, action: Action) -> Iterator[str]:
        expected, gathered = self._mini_batch(action), self._gathered[action.stage]
        if missing := sorted(expected - gathered):
            yield f"before the backward of micro-batches {missing}"
        if earlier := sorted(micro for micro in gathered if micro < min(expected)):
            yield f"before that of the mini-batch of micro-batches {earlier}"
        replicated = len(self._schedule.stages[action.stage]) > 1
        if replicated and (action.stage, action.micro_batch) not in self._reduced:
            yield "before its gradients are reduced among the replicas"
        gathered -= expected
        self._current[action.stage] += 1
        if action.version != self._current[action.stage]:
            yield f"this update makes weights {self._current[action.stage]}"

    def _mini_batch(self, action: Action) -> set[int]:
        last = action.micro_batch + 1
        return set(range(last - self._schedule.micro_batches, last))
