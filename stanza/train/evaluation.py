"""Tests a model while it is trained, in time that does not count.

All ranks stop for a test: the FC part travels to rank 0, which tests the whole model. The clock of
the training stands still meanwhile, and so does the measured window with its bytes. What a test
costs the training all the same is that no rank runs ahead of the others across it.
"""

import time
from contextlib import nullcontext

from stanza.options import Options
from stanza.train.engine import Engine
from stanza.train.summary import NOT_CLASSIFIED
from stanza.train.workload import Workload, logits
from stanza.workers.zero import gathered
from systems.data.accuracy import accuracy
from systems.runs.window import Window


class Evaluation:
    """Tests the model when it is due, and keeps the clock. It starts when this is made."""

    def __init__(self, options: Options, engine: Engine, workload: Workload) -> None:
        self._options, self._engine, self._workload = options, engine, workload
        self._began_s = time.perf_counter()

    def due(self, steps_done: int) -> bool:
        """Whether the model is tested after so many steps, which are not all of them."""
        every, steps = self._options.test_every, self._options.steps
        return bool(every and self._testable and steps_done < steps and steps_done % every == 0)

    def between_steps(self, window: Window | None) -> dict[str, float]:
        """Test between two steps, on all ranks together, while the window is paused.

        Returns:
            On rank 0 the `test_accuracy` (see `at_the_end`) and the `trained_s` so far.
        """
        world = self._engine.world
        world.barrier("a test")
        stopped_s = time.perf_counter()
        metrics = {"trained_s": stopped_s - self._began_s}
        with nullcontext() if window is None else window.paused("a test"):
            metrics |= self._tested()
            self._engine.go_on()
        world.barrier("the end of a test")
        self._began_s += time.perf_counter() - stopped_s
        return metrics if world.rank == 0 else {}

    def at_the_end(self) -> dict[str, float]:
        """Test after the last step, on all ranks together.

        Returns:
            On rank 0 the `trained_s`, and if there are test samples the `test_accuracy`, or
            `not_classified` where they have no classes.
        """
        trained_s = time.perf_counter() - self._began_s
        wanted = self._testable and self._options.test_every != 0
        metrics = self._tested() if wanted else {}
        return {"trained_s": trained_s, **metrics} if self._engine.world.rank == 0 else {}

    @property
    def _testable(self) -> bool:
        """Whether there are test samples; emulated runs have none."""
        return len(self._workload.data.test) > 0

    def _tested(self) -> dict[str, float]:
        """Test the whole model on rank 0. All ranks call this."""
        engine, workload = self._engine, self._workload
        world, model = engine.world, engine.model
        engine.collect()
        if engine.layout.scheme == "zero3":
            model = gathered(model, workload.build().to(world.device))
        if world.rank != 0:
            return {}
        share = accuracy(model, workload.data.test, world.device, logits=logits)
        return {NOT_CLASSIFIED: 1.0} if share is None else {"test_accuracy": share}
