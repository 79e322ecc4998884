"""torchrun that tells which rank failed first: `python -m launch.torchrun`, then torchrun's flags.

`launch run --launcher torchrun` starts this. torchrun prints its own report all the same.
"""

import signal
import sys
from collections.abc import Mapping, Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from systems.background import end_now
from systems.supervise import tell

AT_ONCE_S = 15
"""torchrun's own SIGKILL comes later, to ranks that its SIGTERM has not ended."""


def main(arguments: Sequence[str]) -> None:
    """Run torchrun; exits with its code."""
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        rank = first_failed(error.failures)
        tell(rank, error.failures[rank].exitcode)
        raise SystemExit(1) from None
    except SignalException as stop:  # whoever sent the signal knows, and says so
        end_now(128 + stop.sigval)  # the agent's timers still talk to the store


def first_failed(failures: Mapping[int, ProcessFailure]) -> int:
    """The rank to blame, of all that failed or were ended, in the order in which torchrun saw them.

    A rank that was killed goes first. Others fail for want of it, and have written down when, which
    is earlier than torchrun's own time for the killed one if it looked late.
    """
    earliest = min(failure.timestamp for failure in failures.values())

    def order(rank: int) -> tuple[bool, int]:
        failure = failures[rank]
        killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        return not (killed and failure.timestamp < earliest + AT_ONCE_S), failure.timestamp

    return min(failures, key=order)


if __name__ == "__main__":
    main(sys.argv[1:])
