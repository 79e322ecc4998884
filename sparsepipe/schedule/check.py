"""What is wrong with a schedule, found without processes.

    assert not faults(schedule)

The lists are executed symbolically: a receive blocks until every sender's message is there, a
reduce until all replicas are at it; everything else goes on at once. (Replicas that share no sample
exchange no message: fewer messages than here, never others.)
"""

from collections import defaultdict
from collections.abc import Iterator

from sparsepipe.schedule.lists import Action, Schedule, Step

_SENDS = {
    Action.RECEIVE_ACTIVATION: Action.SEND_ACTIVATION,
    Action.RECEIVE_GRADIENT: Action.SEND_GRADIENT,
}
_BEFORE = {
    Action.SEND_ACTIVATION: Action.FORWARD,
    Action.SEND_GRADIENT: Action.BACKWARD,
    Action.BACKWARD: Action.FORWARD,
}
"""Steps that must come later in a list than another of the same stage and micro-batch."""


def faults(schedule: Schedule) -> list[str]:
    """Everything that is wrong, in words; empty if nothing is."""
    return [
        *_unmatched(schedule),
        *_deadlock(schedule),
        *(fault for rank in range(len(schedule.ranks)) for fault in _order(schedule, rank)),
        *(fault for rank in range(len(schedule.ranks)) for fault in _weights(schedule, rank)),
    ]


def most_in_flight(schedule: Schedule, rank: int, stage: int) -> int:
    """The most micro-batches that a rank holds at a stage between forward and backward."""
    held = most = 0
    for step in schedule.ranks[rank]:
        if step.stage == stage and step.action in (Action.FORWARD, Action.BACKWARD):
            held += 1 if step.action is Action.FORWARD else -1
            most = max(most, held)
    return most


Messages = defaultdict[tuple[Action, int, int, int], list[int]]
"""By send action, sending stage, sender and receiver: micro-batches in their order."""


def _messages(schedule: Schedule) -> tuple[Messages, Messages]:
    """What is sent, in the order of sending, and what is received, in that of receiving."""
    sent: Messages = defaultdict(list)
    received: Messages = defaultdict(list)
    for rank, steps in enumerate(schedule.ranks):
        for step in steps:
            if step.action in _SENDS.values():
                for peer in schedule.receivers(step):
                    sent[step.action, step.stage, rank, peer].append(step.micro_batch)
            elif step.action in _SENDS:
                source = step.stage + (1 if step.action is Action.RECEIVE_GRADIENT else -1)
                for peer in schedule.senders(step):
                    key = (_SENDS[step.action], source, peer, rank)
                    received[key].append(step.micro_batch)
    return sent, received


def _unmatched(schedule: Schedule) -> Iterator[str]:
    sent, received = _messages(schedule)
    for key in sorted(sent.keys() | received.keys()):
        action, stage, sender, receiver = key
        ours, theirs = sent[key], received[key]
        what = f"{action} of stage {stage}, rank {sender} to rank {receiver}"
        if lost := sorted(set(ours) - set(theirs)):
            yield f"{what}: micro-batches {lost} are never received"
        if missing := sorted(set(theirs) - set(ours)):
            yield f"{what}: micro-batches {missing} are never sent"
        if sorted(ours) == sorted(theirs) and ours != theirs:
            yield f"{what}: received in another order than sent"
        if len(set(ours)) < len(ours) or len(set(theirs)) < len(theirs):
            yield f"{what}: a micro-batch more than once"


def _deadlock(schedule: Schedule) -> Iterator[str]:
    """Go on with every rank until it blocks; whoever does not reach its end is named."""
    position = [0] * len(schedule.ranks)
    sent: set[tuple[Action, int, int, int]] = set()  # action, stage, rank, micro-batch

    def blocked(step: Step) -> bool:
        if step.action in _SENDS:
            source = step.stage + (1 if step.action is Action.RECEIVE_GRADIENT else -1)
            return not all(
                (_SENDS[step.action], source, peer, step.micro_batch) in sent
                for peer in schedule.senders(step)
            )
        return step.action is Action.REDUCE and not all(
            _at(schedule, peer, position[peer]) == step for peer in schedule.stages[step.stage]
        )

    moved = True
    while moved:
        moved = False
        for rank in range(len(schedule.ranks)):
            while (step := _at(schedule, rank, position[rank])) and not blocked(step):
                together = step.action is Action.REDUCE
                for peer in schedule.stages[step.stage] if together else (rank,):
                    position[peer] += 1
                sent.add((step.action, step.stage, rank, step.micro_batch))
                moved = True
    for rank in range(len(schedule.ranks)):
        if (step := _at(schedule, rank, position[rank])) is not None:
            yield f"deadlock: rank {rank} waits for ever in {step}"


def _at(schedule: Schedule, rank: int, position: int) -> Step | None:
    steps = schedule.ranks[rank]
    return steps[position] if position < len(steps) else None


def _order(schedule: Schedule, rank: int) -> Iterator[str]:
    """Steps before what they need, steps that are missing or there twice."""
    seen: set[tuple[Action, int, int]] = set()
    stages = [stage for stage, ranks in enumerate(schedule.stages) if rank in ranks]
    for step in schedule.ranks[rank]:
        key = (step.action, step.stage, step.micro_batch)
        if step.stage not in stages:
            yield f"rank {rank}: {step}: it does not hold this stage"
        if key in seen:
            yield f"rank {rank}: {step}: twice"
        needs = _needs(schedule, step)
        if needs is not None and (needs, step.stage, step.micro_batch) not in seen:
            yield f"rank {rank}: {step}: before its {needs}"
        seen.add(key)
    for stage in stages:
        for micro in range(schedule.mini_batches * schedule.micro_batches):
            for action in _every(schedule, stage, micro):
                if (action, stage, micro) not in seen:
                    yield f"rank {rank}: no {Step(action, stage, micro)}"


def _needs(schedule: Schedule, step: Step) -> Action | None:
    last = len(schedule.stages) - 1
    if step.action is Action.FORWARD and step.stage > 0:
        return Action.RECEIVE_ACTIVATION
    if step.action is Action.BACKWARD and step.stage < last:
        return Action.RECEIVE_GRADIENT
    return _BEFORE.get(step.action)


def _every(schedule: Schedule, stage: int, micro: int) -> Iterator[Action]:
    """What must be done with a micro-batch at a stage, whatever its messages."""
    yield Action.FORWARD
    if stage < len(schedule.stages) - 1:
        yield Action.SEND_ACTIVATION
    if schedule.kind == "forward":
        return
    yield Action.BACKWARD
    if stage > 0:
        yield Action.SEND_GRADIENT
    if (micro + 1) % schedule.micro_batches == 0:
        yield Action.UPDATE
        if len(schedule.stages[stage]) > 1:
            yield Action.REDUCE


def _weights(schedule: Schedule, rank: int) -> Iterator[str]:
    """Versions: those of the semantics, those that exist, and none that is kept for ever."""
    weights = _Weights(schedule)
    check = {
        Action.FORWARD: weights.forward,
        Action.BACKWARD: weights.backward,
        Action.REDUCE: weights.reduce,
        Action.UPDATE: weights.update,
    }
    for step in schedule.ranks[rank]:
        if step.action in check:
            for fault in check[step.action](step):
                yield f"rank {rank}: {step}: {fault}"
    for stage, held in weights.users.items():
        if held:
            yield f"rank {rank}: stage {stage} never drops weights {sorted(set(held.values()))}"


class _Weights:
    """The weights and gradients of one rank's stages, as its list goes by."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._current: defaultdict[int, int] = defaultdict(int)
        self._gathered: defaultdict[int, set[int]] = defaultdict(set)  # and not yet applied
        self._reduced: set[tuple[int, int]] = set()
        self.users: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """By stage: the micro-batches on their way, and the version that each has met."""

    def forward(self, step: Step) -> Iterator[str]:
        current = self._current[step.stage]
        if step.version != current:
            yield f"the weights there are {current}"
        wanted = self._schedule.version(step.stage, step.micro_batch)
        if step.version != wanted:
            yield f"stale, {self._schedule.kind} asks for weights {wanted}"
        if self._schedule.kind != "forward":
            self.users[step.stage][step.micro_batch] = current

    def backward(self, step: Step) -> Iterator[str]:
        forward = self.users[step.stage].pop(step.micro_batch, None)
        if step.version != forward:
            yield f"its forward had weights {forward}"
        if (step.stage, step.micro_batch) in self._reduced:
            yield "after the reduce of its gradients"
        self._gathered[step.stage].add(step.micro_batch)

    def reduce(self, step: Step) -> Iterator[str]:
        self._reduced |= {(step.stage, micro) for micro in self._mini_batch(step)}
        yield from ()

    def update(self, step: Step) -> Iterator[str]:
        wanted, gathered = self._mini_batch(step), self._gathered[step.stage]
        if missing := sorted(wanted - gathered):
            yield f"before the backward of micro-batches {missing}"
        if earlier := sorted(micro for micro in gathered if micro < min(wanted)):
            yield f"before that of the mini-batch of micro-batches {earlier}"
        replicated = len(self._schedule.stages[step.stage]) > 1
        if replicated and (step.stage, step.micro_batch) not in self._reduced:
            yield "before its gradients are reduced among the replicas"
        gathered -= wanted
        self._current[step.stage] += 1
        if step.version != self._current[step.stage]:
            yield f"this update makes weights {self._current[step.stage]}"

    def _mini_batch(self, step: Step) -> set[int]:
        last = step.micro_batch + 1
        return set(range(last - self._schedule.micro_batches, last))
