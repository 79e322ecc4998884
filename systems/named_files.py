"""Makes the names of files in options absolute, so that a job means the same from every folder.

Every function takes the folders in which a relative path is looked for. The first one that has the
file wins, and a name that none of them has stays as it is: errors then say what the user wrote.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from systems.schema import filled_in


def absolute_path(name: str, folders: Sequence[Path], **filled: str) -> str:
    """Return the absolute path of a file. `filled` gives the values of words in braces, such as
    `{task}`, in its name."""
    for folder in folders:
        path = folder / filled_in(name, **filled)
        if name and os.path.exists(path):  # unlike Path's, it raises nothing
            return os.path.abspath(folder / name)
    return name


def absolute_profile(name: str, folders: Sequence[Path]) -> str:
    """The absolute path of a profile in a JSON file, or of one for each kind of device, as in
    V100=a.json,T4=b.json. The name of a shipped one stays as it is."""
    if "=" in name and not os.path.exists(name):
        words = [word.partition("=") for word in name.split(",")]
        return ",".join(f"{kind}{sign}{absolute_profile(f, folders)}" for kind, sign, f in words)
    return absolute_path(name, folders) if name.endswith(".json") else name


def absolute_data(data: str, folders: Sequence[Path]) -> str:
    """Return data such as folder:PATH, or jsonl:PATH,DOCUMENT,SUMMARY, with an absolute path."""
    kind, colon, path = data.partition(":")
    path, comma, keys = path.partition(",") if kind == "jsonl" else (path, "", "")
    return f"{kind}{colon}{absolute_path(path, folders)}{comma}{keys}"
