"""torchrun that tells which rank failed first: `python -m launch.torchrun`, then torchrun's flags.

`launch run --launcher torchrun` starts this. torchrun prints its own report all the same.
"""

import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from systems.supervise import tell


def main(arguments: Sequence[str]) -> None:
    """Run torchrun; exits with its code."""
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        failures = error.failures
        # A rank that is killed goes first: the others fail for want of it, and write an earlier
        # time if torchrun sees both only later.
        first = min(
            failures, key=lambda rank: (failures[rank].exitcode >= 0, failures[rank].timestamp)
        )
        tell(first, failures[first].exitcode)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1:])
