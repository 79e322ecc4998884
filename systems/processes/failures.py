"""Why ranks failed: printed on stderr, told to torchrun's agent, and kept in the run's record.

Where the stderr of a rank is not shown (torchrun's --local-ranks-filter), its reason is in the
agent's report. After the run the record has a line for each rank that gave a reason.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from systems.processes.supervise import TOLD
from systems.schema import to_json

FILE = "failures.jsonl"
"""The file of a record that keeps the reasons, a line each."""
AGENTS_FILE = "TORCHELASTIC_ERROR_FILE"
"""The variable with which torchrun names the file that a rank writes its error to, in the format of
torch.distributed.elastic.multiprocessing.errors."""

_record: Path | None = None


def keep_in(folder: Path) -> None:
    """Keep the failure of this process in this record, from now on."""
    global _record
    _record = folder


def tell(rank: int, text: str) -> None:
    """Print why this rank fails, and keep it. The first line is the reason, others are details."""
    say(text)
    keep(rank, text)


def say(text: str) -> None:
    """Print an error on stderr."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def somebody_tells() -> bool:
    """Whether the launcher of this rank will print the reason that the rank keeps."""
    return TOLD in os.environ or AGENTS_FILE in os.environ


def keep(rank: int, text: str) -> None:
    """Write down why this rank fails, for torchrun's agent and in the record.

    The agent names its file in a variable. The first rank that fails makes that file, and the
    others leave it as it is. The rank ends after this call.
    """
    if os.environ.get(AGENTS_FILE):
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(os.environ[AGENTS_FILE], "x") as file:  # the first one counts
            message = {"message": text.partition("\n")[0], "extraInfo": details}
            file.write(to_json({"message": message}))
    if _record is not None:
        write(_record, rank, text)


def write(folder: Path, rank: int, text: str) -> None:
    """Add the failure of a rank to the record in `folder`.

    Nothing is written, and nothing is raised, where this machine has no such folder or cannot write
    to it.
    """
    reason, _, details = text.partition("\n")
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = to_json({"at": at, "rank": rank, "reason": reason, "details": details})
    with suppress(OSError), (folder / FILE).open("a") as file:
        file.write(f"\n{line}\n")  # a full disk may have left half a line


def read(folder: Path) -> list[dict[str, Any]]:
    """The failures in a record, in the order in which they were written.

    Each has `at`, `rank`, `reason` and `details`. Lines that are only half written are left out.
    """
    path = folder / FILE
    failures = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            failures.append(json.loads(line))
    return failures


def first(folder: Path) -> str | None:
    """The reason of the failure in a record that was written first; None if there is none."""
    return next((str(failure["reason"]) for failure in read(folder)), None)
