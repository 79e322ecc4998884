"""`testbed COMMAND` (or `python -m launch COMMAND`), the testbed's command line.

    run JOB.toml [flags]         train; start the ranks here, leave a record
    worker JOB.toml [flags]      one rank, started by torchrun, mpirun or srun
    simulate JOB.toml [flags]    play the job's schedule without processes, leave a record
    emulate JOB.toml [flags]     the program itself on a cluster emulated here, leave a record
    sweep JOB.toml --over ...    the job at all combinations of some values, a table and a figure
    throughput JOB.toml [flags]  a sweep of world size and batch size on this machine
    reproduce [SYSTEM] [flags]   the papers' figures, a report, the claims
    validate [--plans DIR]       predictions against jobs that other people measured
    doctor                       what this machine has and lacks

These belong to one system of those that are installed, or to one kind of file:

SYSTEMS

Bad input is one line on stderr and exit code 2.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from launch.encoding import take_utf8
from launch.ownership import foreign_packages
from launch.streams import outlive_readers

COMMANDS = {
    "run": "launch.commands.run",
    "worker": "launch.ranks.worker",
    "simulate": "launch.commands.simulate",
    "emulate": "launch.commands.emulate",
    "sweep": "launch.commands.sweep",
    "throughput": "launch.commands.throughput",
    "ranks": "launch.ranks.emulated",
    "reproduce": "launch.reproduction.reproduce",
    "validate": "launch.commands.validate",
    "doctor": "launch.commands.doctor",
}
"""The module of every command for all systems. `ranks` is started by other commands, not by
users."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` name; without any, the arguments of this process."""
    if arguments is None:
        take_utf8()
        outlive_readers()
    words = list(sys.argv[1:] if arguments is None else arguments)
    foreign = foreign_packages()
    if foreign and words[:1] == ["doctor"] and "systems" not in foreign:  # all it imports of them
        return importlib.import_module("launch.commands.doctor").main(words[1:])
    for name, origin in foreign.items():
        print(
            f"error: package {name} is a foreign one from {origin}; "
            f"pip uninstall {name}, or use this testbed's own .venv",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from systems.disk import is_full
    from systems.schema import InputError

    try:
        if not words or words[0] in ("-h", "--help"):
            _print_help()
        else:
            _dispatch(words)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if not is_full(error):
            raise
        what = error.filename or "the output"
        print(f"error: disk full: {what} could not be written", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to flush
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("error: stopped by SIGINT; what is done stays", file=sys.stderr)
        raise SystemExit(130) from None


def _dispatch(words: list[str]) -> None:
    """Run the command whose name comes first: one word, or two where the second is a subject, such
    as a system.

    Raises:
        InputError: there is no such command, or none for this subject.
    """
    from launch import own_commands
    from systems.schema import InputError, remedy

    if words[0] in COMMANDS:
        return importlib.import_module(COMMANDS[words[0]]).main(words[1:])
    own = own_commands.all_commands(COMMANDS)
    for count in (1, 2):
        if (name := " ".join(words[:count])) in own:
            return own_commands.run(name, own[name], words[count:])
    subjects = [name.partition(" ")[2] for name in own if name.startswith(f"{words[0]} ")]
    if not subjects:
        known = {*COMMANDS, *(name.partition(" ")[0] for name in own)}
        raise InputError(f"{words[0]}: no such command; {remedy(words[0], known)}")
    if words[1:2] in (["-h"], ["--help"]):
        return own_commands.print_subjects(words[0], own, subjects)
    wrong = " ".join(words[:2])
    known_subjects = " or ".join(subjects)
    raise InputError(
        f"{wrong}: names no system that can do it; write: testbed {words[0]} {known_subjects}"
    )


def _print_help() -> None:
    """Print what all commands do, those of the installed systems too."""
    from launch import own_commands

    own = own_commands.all_commands(COMMANDS)
    print((__doc__ or "").strip().replace("SYSTEMS\n", own_commands.described(own)))


def program() -> None:
    """Run the command that the arguments of this process name, and end the process."""
    if foreign_packages():
        return main()
    from systems.processes import background

    background.leave(background.exit_code_of(main))


if __name__ == "__main__":
    program()
