"""`python -m launch COMMAND`, the testbed's command line.

    run JOB.toml [flags]         train; start the ranks here, leave a record
    worker JOB.toml [flags]      one rank, started by torchrun, mpirun or srun
    simulate JOB.toml [flags]    play the job's schedule without processes, leave a record
    emulate JOB.toml [flags]     the program itself on a cluster emulated here, leave a record
    throughput JOB.toml [flags]  sweep batch size and world size, a table and a CSV
    plan stanza [flags]          predict every scheme's step time, choose
    plan sparsepipe [flags]      partition a model over unequal devices
    profile stanza|sparsepipe    measure a model's layers on this machine
    profile graph FILE           read a profile that others published as graph.txt
    reproduce [SYSTEM] [flags]   the papers' figures, a report, the claims
    train-pair TASK [flags]      a small target and draft for speculative sampling
    bench sparse [flags]         sparse convolution against other engines and dense
    bench speculative [flags]    verification kernels against transformers and the byte floor
    validate [--plans DIR]       predictions against jobs that other people measured
    doctor                       what this machine has and lacks

Bad input is one line on stderr and exit code 2.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from launch.ownership import foreign_packages
from launch.streams import outlive_readers

COMMANDS = {
    "run": "launch.commands.run",
    "worker": "launch.ranks.worker",
    "simulate": "launch.commands.simulate",
    "emulate": "launch.commands.emulate",
    "throughput": "launch.commands.throughput",
    "train-pair": "launch.commands.train_pair",
    "ranks": "launch.ranks.emulated",
    "reproduce": "launch.reproduction.reproduce",
    "validate": "launch.commands.validate",
    "doctor": "launch.commands.doctor",
}
"""The module of every command. `ranks` is started by other commands, not by users."""
SUBJECTS = {
    "plan": {
        "stanza": "launch.commands.plan_stanza",
        "sparsepipe": "launch.commands.plan_sparsepipe",
    },
    "profile": {
        "stanza": "launch.commands.profile_stanza",
        "sparsepipe": "launch.commands.profile_sparsepipe",
        "graph": "launch.commands.profile_graph",
    },
    "bench": {
        "sparse": "launch.commands.bench_sparse",
        "speculative": "launch.commands.bench_speculative",
    },
}
"""Commands whose next word, the subject, is a system or a part of one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` name; without any, the arguments of this process."""
    if arguments is None:
        outlive_readers()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    foreign = foreign_packages()
    if foreign and words[0] == "doctor":  # which reports foreign packages and imports none
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
    """Run the command whose name comes first.

    Raises:
        InputError: there is no such command, or none for this subject.
    """
    from systems.schema import InputError, remedy

    command = words.pop(0)
    if command in COMMANDS:
        return importlib.import_module(COMMANDS[command]).main(words)
    if command not in SUBJECTS:
        known = remedy(command, {**COMMANDS, **SUBJECTS})
        raise InputError(f"{command}: no such command; {known}")
    subject, modules = words.pop(0) if words else "", SUBJECTS[command]
    if subject in ("-h", "--help"):
        return _print_subjects(command)
    if subject not in modules:
        wrong = f"{command} {subject}".strip()
        raise InputError(
            f"{wrong}: names no system of this version; write: launch {command} "
            f"{' or '.join(modules)}"
        )
    importlib.import_module(modules[subject]).main(words)


def _print_subjects(command: str) -> None:
    """Print the help of a command that needs a subject."""
    described = (__doc__ or "").splitlines()
    lines = [line for line in described if line.startswith(f"    {command} ")]
    subjects = " or ".join(SUBJECTS[command])
    print("\n".join([f"launch {command} SUBJECT [flags]", "", *lines, ""]))
    print(f"SUBJECT is {subjects}. launch {command} SUBJECT --help lists its flags.")


def program() -> None:
    """Run the command that the arguments of this process name, and end the process."""
    if foreign_packages():
        return main()
    from systems.processes import background

    background.leave(background.exit_code_of(main))


if __name__ == "__main__":
    program()
