"""What the actions of a schedule become in the simulator: tasks that wait for each other.

Sends and receives overlap computation. A backward pass that an all-reduce follows is cut into equal
parts: the gradients of one part are exchanged while the next part is computed, as in the runtime.
"""

from collections import defaultdict
from collections.abc import Sequence

from sparsepipe.schedule.costs import StageCost
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS, Action, ActionKind, Schedule
from sparsepipe.schedule.pipeline_classes import PipelineClasses
from systems.program import Program


class ScheduleTasks:
    """Turns the lists of the played ranks into tasks of a `Program` of the simulator.

    A task can only name earlier tasks as those that it waits for. So the lists are walked side by
    side, and a rank whose next action needs a task that is not there yet is left until it is.
    """

    def __init__(
        self,
        schedule: Schedule,
        costs: Sequence[StageCost],
        latency_s: float,
        classes: PipelineClasses,
    ) -> None:
        """Begin a program without tasks, for the ranks of `classes` that are played."""
        self.program = Program(latency_s)
        self._schedule, self._costs, self._classes = schedule, costs, classes
        # The place of each played rank among the replicas of each of its stages.
        self._replica = {
            (stage, rank): place
            for stage, ranks in enumerate(schedule.stages)
            for place, rank in enumerate(ranks)
        }
        # For each played rank, the tasks that its next action must wait for.
        self._last: dict[int, list[int]] = {one.played: [] for one in classes.classes}
        # The messages by (kind, sending stage, micro-batch, receiver), and all-reduces likewise.
        self._arrived: dict[tuple[ActionKind, int, int, int], list[int]] = {}
        # The last message of each channel, which keeps its messages in order.
        self._wire: dict[tuple[ActionKind, int, int, int], int] = {}
        # The parts of a backward pass that an all-reduce follows, by (stage, micro-batch) and rank.
        self._parts: defaultdict[tuple[int, int], dict[int, list[int]]] = defaultdict(dict)
        self._work: list[tuple[int, Action, list[int]]] = []

    def add_all(self) -> list[tuple[int, Action, list[int]]]:
        """Add the tasks of all actions; returns each computation's rank, action and tasks."""
        left = {rank: iter(self._schedule.ranks[rank]) for rank in self._last}
        following = {rank: next(actions, None) for rank, actions in left.items()}
        moved = True
        while moved:
            moved = False
            for rank in list(following):
                action = following[rank]
                while action is not None and self._add(rank, action):
                    action = next(left[rank], None)
                    moved = True
                following[rank] = action
                if action is None:
                    del following[rank]
        return self._work

    def _add(self, rank: int, action: Action) -> bool:
        """Add the tasks of one action; False if a task that it waits for is not there yet."""
        if action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD):
            self._compute(rank, action)
        elif action.kind in (ActionKind.SEND_ACTIVATION, ActionKind.SEND_GRADIENT):
            self._send(rank, action)
        elif action.kind is ActionKind.REDUCE:
            return self._reduce(rank, action)
        elif action.kind is not ActionKind.UPDATE:  # which takes no time
            return self._receive(rank, action)
        return True

    def _compute(self, rank: int, action: Action) -> None:
        """Add a forward or backward pass; in parts if an all-reduce follows it."""
        cost, replica = self._costs[action.stage], self._replica[action.stage, rank]
        backward = action.kind is ActionKind.BACKWARD
        seconds = (cost.backward_s if backward else cost.forward_s)[replica]
        last = (action.micro_batch + 1) % self._schedule.micro_batches == 0
        reduced = backward and last and len(self._schedule.stages[action.stage]) > 1
        parts: list[int] = []
        count = ALL_REDUCE_PARTS if reduced else 1
        name = f"{action.kind} {action.micro_batch}"
        for _ in range(count):
            after = parts[-1:] or self._last[rank]
            parts.append(
                self.program.compute(f"rank {rank}", seconds / count, name=name, after=after)
            )
        if reduced:
            self._parts[action.stage, action.micro_batch][rank] = parts
        self._last[rank] = parts[-1:]
        self._work.append((rank, action, parts))

    def _send(self, rank: int, action: Action) -> None:
        """Add a message to each replica of the other stage that shares samples with this one."""
        forward = action.kind is ActionKind.SEND_ACTIVATION
        target = action.stage + (1 if forward else -1)
        cut = self._costs[min(action.stage, target)]
        size = cut.output_bytes if forward else cut.gradient_bytes
        name = f"{action.kind} {action.micro_batch}"
        messages = self._classes.messages[action.stage, target, rank]
        for place, one in enumerate(messages):
            channel = (action.kind, action.stage, rank, place)
            after = [*self._last[rank], *([self._wire[channel]] if channel in self._wire else [])]
            if one.own:
                number = self.program.join(after)
            else:
                number = self.program.flow(
                    rank,
                    one.target,
                    one.part * size,
                    sent=one.sent,
                    received=one.received,
                    name=name,
                    after=after,
                )
            self._wire[channel] = number
            key = (action.kind, action.stage, action.micro_batch, one.target)
            self._arrived.setdefault(key, []).append(number)

    def _receive(self, rank: int, action: Action) -> bool:
        """Make the rank wait for its messages; False if not all of them have been added."""
        gradient = action.kind is ActionKind.RECEIVE_GRADIENT
        sent = ActionKind.SEND_GRADIENT if gradient else ActionKind.SEND_ACTIVATION
        source = action.stage + (1 if gradient else -1)
        arrived = self._arrived.get((sent, source, action.micro_batch, rank), [])
        if len(arrived) < self._classes.expected[action.stage, source, rank]:
            return False
        self._last[rank] = [*self._last[rank], *arrived]
        return True

    def _reduce(self, rank: int, action: Action) -> bool:
        """Make the rank wait for the all-reduce; False if not all replicas went backward.

        The first replica that gets here adds the exchanges of all parts, for all replicas.
        """
        ranks = self._classes.of_stage[action.stage]
        parts = self._parts[action.stage, action.micro_batch]
        if len(parts) < len(ranks):
            return False
        key = (ActionKind.REDUCE, action.stage, action.micro_batch, -1)
        if key not in self._arrived:
            size = self._costs[action.stage].parameter_bytes / ALL_REDUCE_PARTS
            before = (ActionKind.REDUCE, action.stage, -1, -1)
            done = [self._wire[before]] if before in self._wire else []
            name, replicas = (
                f"reduce {action.micro_batch}",
                len(self._schedule.stages[action.stage]),
            )
            for ready in zip(*parts.values(), strict=True):
                done = [
                    self.program.all_reduce(
                        ranks, size, ranks=replicas, name=name, after=[*ready, *done]
                    )
                ]
            self._arrived[key], self._wire[before] = done, done[0]
        self._last[rank] = [*self._last[rank], *self._arrived[key]]
        return True
