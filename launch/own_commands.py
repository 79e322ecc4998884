"""The commands that belong to one system, such as `testbed plan NAME`, found and run."""

from collections.abc import Collection, Mapping, Sequence

from launch import installed
from systems import by_path
from systems.schema import InputError
from systems.system import Command

OF_FILES = {
    "profile graph": Command(
        main="launch.commands.profile_graph:main",
        what="read a profile that others published as graph.txt",
    ),
    "profile --from-trace": Command(
        main="launch.commands.profile_trace:main",
        what="read the layers' times in a trace of torch.profiler",
    ),
}
"""The commands for profiles of other programs, which stand among those of the systems."""
WIDTH = 28
"""The columns that the words of a command take in a list of commands."""


def all_commands(taken: Collection[str]) -> dict[str, Command]:
    """The commands of all installed systems, and those for files, by their words.

    Args:
        taken: the words of other commands.

    Raises:
        InputError: two systems have a command of the same words, or the words are taken.
    """
    commands = dict(OF_FILES)
    for system in installed.all_systems():
        for words, command in system.commands.items():
            if words in commands or words in taken:
                raise InputError(
                    f"system {system.name}: its command {words!r} exists already; uninstall its "
                    "package, or tell its author"
                )
            commands[words] = command
    return commands


def run(words: str, command: Command, arguments: Sequence[str]) -> None:
    """Import a command and run it with the words that follow its own."""
    by_path.load(command.main, f"command {words}:")(arguments)


def described(commands: Mapping[str, Command]) -> str:
    """A line for each command: its words, and what it does."""
    return "".join(
        f"    {f'{words} [flags]':{WIDTH}} {command.what}\n" for words, command in commands.items()
    )


def print_subjects(first: str, own: Mapping[str, Command], subjects: Sequence[str]) -> None:
    """Print the help of a command that needs a subject, such as `testbed plan`."""
    print(f"testbed {first} SUBJECT [flags]\n")
    print(described({words: c for words, c in own.items() if words.startswith(f"{first} ")}))
    print(f"SUBJECT is {' or '.join(subjects)}. testbed {first} SUBJECT --help lists its flags.")
