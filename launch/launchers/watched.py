"""Starts one rank and watches it: `python -m launch.launchers.watched worker ...`.

It serves launchers that do not say which rank failed first: the watcher of that rank does.
"""

import os
import signal
import sys
from collections.abc import Sequence

from launch.streams import outlive_readers
from systems.processes.lifetime import die_with_parent
from systems.processes.supervise import wait_for_ranks


def main(arguments: Sequence[str]) -> None:
    """Run `python -m launch` with these arguments; exit with its code."""
    die_with_parent(signal.SIGKILL)
    command = [sys.executable, "-m", "launch", *arguments]
    process = os.spawnv(os.P_NOWAIT, sys.executable, command)
    code = wait_for_ranks({process: int(os.environ["RANK"])})
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    outlive_readers()
    main(sys.argv[1:])
