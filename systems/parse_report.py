"""Turns tyro's report of a bad command line, a framed text of several lines, into one line.

tyro has no public way to get at its errors but this text. Its hook `tyro._errors.on_parse_error` is
private, younger than the oldest tyro that the testbed accepts, and leaves the messages about values
as text too. A message of another version that no pattern here knows is shown as tyro wrote it.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence

WIDE = "10000"
"""A terminal of so many columns, on which tyro breaks no message into lines."""
PLAINER = (
    (r"Error parsing [\w.-]+: (--.*)", r"\1"),  # our own error, from a dataclass
    (
        r"Error parsing (--[\w.-]+): invalid literal for int\(\) with base 10: (.*)",
        r"\1 \2: expected a whole number; see --help",
    ),
    (
        r"Error parsing (--[\w.-]+): could not convert string to float: (.*)",
        r"\1 \2: expected a number; see --help",
    ),
    (
        r"Error parsing (--[\w.-]+): no type matching (\S+) could be instantiated from \[(.*)\]\.",
        r"\1 \3: expected \2; see --help",
    ),
    (
        r"invalid choice (.*) for argument '(--\S+)'\. Expected one of \((.*?),?\)\.",
        r"\2 \1: expected one of \3",
    ),
    (r"Missing value for argument '(\S+)'\..*", r"\1: its value is missing; see --help"),
)
"""Patterns of what tyro says, and what we say instead."""
END = ("For full helptext", "Argument helptext", "Got errors", "Perhaps you meant")
"""What a line begins with that comes after the message itself."""


@contextlib.contextmanager
def captured_report() -> Iterator[io.StringIO]:
    """Catch what tyro prints to stderr in the block; no message is broken into lines."""
    columns, report = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(report):
            yield report
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns


def one_line(report: str, flags: Sequence[str]) -> str:
    """The message of a report, with what tyro proposes instead, as one line.

    Args:
        flags: the command line, which is named if the report holds no message.
    """
    # A frame of box-drawing characters, or, where the terminal has none, rulers of dashes.
    lines = [line.strip("│╭╮╰╯─ \t") for line in report.splitlines()]
    words = [line for line in lines if line.strip("-")]
    body = words[1:]  # the first line is the frame's title
    end = next((i for i, line in enumerate(body) if line.startswith(END)), len(body))
    message = " ".join(body[:end])
    if not message:
        return f"bad command line: {' '.join(flags)}"
    proposed = [line.split()[0] for line in body[end:] if line.startswith("--")]
    if proposed and body[end].startswith("Perhaps"):
        return f"{message}. Perhaps you meant {', '.join(proposed)}"
    for pattern, plainer in PLAINER:
        if match := re.fullmatch(pattern, message):
            return match.expand(plainer).replace("{None}|", "")
    return f"{message}; see --help"
