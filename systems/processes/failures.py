"""Why ranks failed: said on stderr, told to torchrun's agent, and kept in the run's record.

Where a rank's stderr is not shown (torchrun's --local-ranks-filter), its reason is in the agent's
report; and after the run it is in the record, a line for each rank that had one.
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
"""Variable of torchrun: where a rank writes its error, in the format of
torch.distributed.elastic.multiprocessing.errors."""

_record: Path | None = None


def keep_in(folder: Path) -> None:
    """From now on this process's failure is kept in this record."""
    global _record
    _record = folder


def tell(rank: int, text: str) -> None:
    """Say why this rank fails and keep it; the first line is the reason, the others details."""
    say(text)
    keep(rank, text)


def say(text: str) -> None:
    """Say it on stderr."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def somebody_tells() -> bool:
    """Whether whoever started this rank says why it failed, of what it has kept."""
    return TOLD in os.environ or AGENTS_FILE in os.environ


def keep(rank: int, text: str) -> None:
    """Keep why this rank fails, just before it ends."""
    if os.environ.get(AGENTS_FILE):
        told = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(os.environ[AGENTS_FILE], "x") as file:  # the first one counts
            message = {"message": text.partition("\n")[0], "extraInfo": told}
            file.write(to_json({"message": message}))
    if _record is not None:
        write(_record, rank, text)


def write(folder: Path, rank: int, text: str) -> None:
    """Add a line to a record, if this machine has it and can write there."""
    reason, _, details = text.partition("\n")
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = to_json({"at": at, "rank": rank, "reason": reason, "details": details})
    with suppress(OSError), (folder / FILE).open("a") as file:
        file.write(f"\n{line}\n")  # a full disk may have left half a line


def read(folder: Path) -> list[dict[str, Any]]:
    """What a record says of ranks that failed, in the order in which they did; without what was
    only half written."""
    path = folder / FILE
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
