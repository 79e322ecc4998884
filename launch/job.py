"""A job: everything that determines a run. Defaults < job file (TOML) < flags.

    python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4

A relative path in a job file is looked for beside the file, then in the working directory; one in a
flag in the working directory. `out` is always below the working directory.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
import tyro

from launch.parse_report import captured_report, one_line
from sparsepipe.options import Options as SparsePipeOptions
from speculative.options import Options as SpeculativeOptions
from stanza.options import Options as StanzaOptions
from systems import disk, schema
from systems.clusters import cluster
from systems.schema import InputError, filled_in

LONGEST_TIMEOUT_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What a job asks of SLURM."""

    nodes: int = 1
    """The number of nodes, over which the ranks are spread evenly."""
    options: tuple[str, ...] = ()
    """More of sbatch's long options, without dashes: partition=gpu time=30 gres=gpu:4."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise InputError(f"--slurm.nodes {self.nodes}: give 1 or more")
        for option in self.options:
            if not re.fullmatch(r"[a-z][a-z-]+(=\S+)?", option):
                raise InputError(
                    f"--slurm.options {option}: no long option of sbatch; write it without "
                    "dashes, such as partition=gpu"
                )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of one system."""

    name: str = "stanza"
    """What its record is called."""
    system: Literal["stanza", "sparsepipe", "speculative"] = "stanza"
    """Which system runs."""
    world_size: int = 4
    """Ranks, one a node of the cluster. A launcher's own number wins."""
    cluster: str = "local"
    """A preset (`launch doctor` lists them) or a TOML file; what the planner plans for."""
    profile: str | None = None
    """A measured profile, by the model's name or as a JSON file. None: the model's, if there is
    one."""
    launcher: Literal["torchrun", "local", "mpirun", "deepspeed", "slurm"] = "torchrun"
    """What starts the ranks. local: as plain processes. slurm: a script for sbatch is written."""
    transport: Literal["torch", "mpi"] = "torch"
    """What carries point-to-point messages: torch.distributed or mpi4py."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU for every rank where there are enough, else the CPU."""
    seed: int = 0
    """Of the initial weights and of the order of samples."""
    timeout_s: float = 120.0
    """Longest wait for another rank."""
    checkpoint_every: int = 0
    """Save a checkpoint after so many steps, and the trained model at the end. 0: neither."""
    checkpoint_keep: int = 3
    """The last checkpoints to keep."""
    resume: str = "auto"
    """auto: go on from the newest sound checkpoint of the run's own record, if there is one. never:
    begin anew. Or a path: where the run has none, from the record or the checkpoint of another."""
    max_restarts: int = 0
    """How often torchrun starts all ranks again after one of them is lost."""
    trace: bool = False
    """Write a Chrome/Perfetto trace of every rank."""
    torch_profiler: bool = False
    """Write torch.profiler's trace of a few steps, for every rank."""
    out: str | None = None
    """Folder of the record. None: a new one under runs/."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """What `--launcher slurm` asks for."""
    stanza: StanzaOptions = field(default_factory=StanzaOptions)
    """Stanza's options."""
    sparsepipe: SparsePipeOptions = field(default_factory=SparsePipeOptions)
    """SparsePipe's options."""
    speculative: SpeculativeOptions = field(default_factory=SpeculativeOptions)
    """Speculative sampling's options."""

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise InputError(f"--world-size {self.world_size}: give 1 or more ranks")
        check_seed(self.seed)
        if not 0 < self.timeout_s <= LONGEST_TIMEOUT_S:
            raise InputError(
                f"--timeout-s {self.timeout_s:g}: give more than 0 seconds, at most a day"
            )
        _check_survival(self)
        if self.transport == "mpi" and self.launcher != "mpirun":
            raise InputError(
                f"--transport mpi: {self.launcher} starts no MPI; add --launcher mpirun"
            )


J = TypeVar("J", bound=Job)


def check_seed(seed: int) -> None:
    """Raise an InputError for a `--seed` that NumPy or torch does not take."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give 0 to {2**32 - 1}")


def _check_survival(job: Job) -> None:
    """Refuse checkpoints and restarts that cannot be."""
    if job.checkpoint_every < 0:
        raise InputError(f"--checkpoint-every {job.checkpoint_every}: give steps, or 0: never")
    if job.checkpoint_keep < 1:
        raise InputError(f"--checkpoint-keep {job.checkpoint_keep}: give 1 or more")
    if job.max_restarts < 0:
        raise InputError(f"--max-restarts {job.max_restarts}: give 0 or more")
    if job.max_restarts and job.launcher not in ("torchrun", "slurm"):
        raise InputError(
            f"--max-restarts {job.max_restarts}: {job.launcher} does not start lost ranks again; "
            "add --launcher torchrun"
        )
    unsaved = _unsaved(job)
    if job.checkpoint_every and unsaved:
        raise InputError(
            f"--checkpoint-every {job.checkpoint_every}: {unsaved} saves no checkpoints; leave it "
            "out"
        )


def _unsaved(job: Job) -> str | None:
    """The flag that says what has no checkpoints, if there is one."""
    if job.system == "speculative":
        return "--system speculative"
    if job.system == "stanza" and job.stanza.scheme.startswith("zero"):
        return f"--stanza.scheme {job.stanza.scheme}"
    if job.system == "sparsepipe" and job.sparsepipe.scheme == "deepspeed":
        return "--sparsepipe.scheme deepspeed"
    if job.system == "sparsepipe" and job.sparsepipe.mode == "infer":
        return "--sparsepipe.mode infer"
    return None


def load(path: Path) -> Job:
    """The job in a TOML file.

    Raises:
        InputError: no such file, not TOML, or a key or value that no option has.
    """
    if not path.is_file():
        ready = sorted(p.name for p in (Path(__file__).parent / "jobs").glob("*.toml"))
        raise InputError(f"job {path}: no such file; ready jobs in launch/jobs: {', '.join(ready)}")
    return with_absolute_paths(schema.load_toml(Job, path), path.parent, Path())


def save(job: Job, path: Path) -> None:
    """Write a job as TOML that `load` reads back as an equal job, from whatever folder."""
    disk.write_text(path, tomli_w.dumps(schema.dump(with_absolute_paths(job, Path()))))


def with_absolute_paths(job: J, *folders: Path) -> J:
    """The job with the files that it reads named by absolute paths.

    Args:
        folders: where a relative path is looked for, the first one that has it wins. A path that
            none of them has stays as it is, and so does `out`, which is written.
    """
    names: dict[str, Any] = {}
    if job.cluster not in cluster.presets():
        names["cluster"] = _absolute(job.cluster, folders)
    if job.profile is not None:
        names["profile"] = _absolute_file(job.profile, folders)
    if job.resume not in ("auto", "never"):
        names["resume"] = _absolute(job.resume, folders)
    names["stanza"] = dataclasses.replace(job.stanza, data=_absolute_data(job.stanza.data, folders))
    sparse = job.sparsepipe
    names["sparsepipe"] = dataclasses.replace(
        sparse,
        data=_absolute_data(sparse.data, folders),
        plan=sparse.plan and _absolute(sparse.plan, folders),
        profiles=",".join(_absolute_file(name, folders) for name in sparse.profiles.split(",")),
    )
    pair = job.speculative
    names["speculative"] = dataclasses.replace(
        pair,
        data=pair.data and _absolute_data(pair.data, folders),
        target=_absolute(pair.target, folders, task=pair.task),
        draft=_absolute(pair.draft, folders, task=pair.task),
    )
    return dataclasses.replace(job, **names)


def _absolute(name: str, folders: Sequence[Path], **filled: str) -> str:
    """A path as it is in the first folder that has it; `filled` is what its braces stand for."""
    for folder in folders:
        there = folder / filled_in(name, **filled)
        if name and os.path.exists(there):  # unlike Path's, it raises nothing
            return os.path.abspath(folder / name)
    return name


def _absolute_file(name: str, folders: Sequence[Path]) -> str:
    """The same of a profile, which is a JSON file or the name of one that ships."""
    return _absolute(name, folders) if name.endswith(".json") else name


def _absolute_data(data: str, folders: Sequence[Path]) -> str:
    """The same of data such as folder:PATH, or jsonl:PATH,DOCUMENT,SUMMARY."""
    kind, colon, path = data.partition(":")
    path, comma, keys = path.partition(",") if kind == "jsonl" else (path, "", "")
    return f"{kind}{colon}{_absolute(path, folders)}{comma}{keys}"


def without_flags_of_command(job: Job) -> Job:
    """The job alone, of what a command with flags of its own has parsed."""
    return Job(**{f.name: getattr(job, f.name) for f in dataclasses.fields(Job)})


def parse(command: str, arguments: Sequence[str], default: J) -> J:
    """The job that a command line means: an optional job file, then flags.

    Args:
        default: the job without either; a command with flags of its own gives a subclass.

    Raises:
        InputError: a flag that does not exist, or a value that it does not take.
    """
    flags = list(arguments)
    if flags and not flags[0].startswith("-"):
        job = load(Path(flags.pop(0)))
        changes = {f.name: getattr(job, f.name) for f in dataclasses.fields(Job)}
        default = dataclasses.replace(default, **changes)
    given = parse_flags(type(default), flags, f"launch {command} [JOB.toml]", default)
    return with_absolute_paths(given, Path())


def refuse_below_one(given: Mapping[str, Sequence[int]]) -> None:
    """Raise an InputError for the first flag, by name, that has no values or one below 1."""
    for name, values in given.items():
        if not values or min(values) < 1:
            shown = " ".join(map(str, values)) or "(none)"
            raise InputError(f"--{name} {shown}: give whole numbers from 1 on")


@contextmanager
def named_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors of the block name the options that the user has given to this command.

    Args:
        names: what an option is called elsewhere, and here, without the dashes:
            {"stanza.model": "model"} for a command whose --model is a job's --stanza.model.
    """
    try:
        yield
    except InputError as error:
        known = "|".join(map(re.escape, names))
        option = rf"(?<![\w-])--({known})(?![\w-])"
        text = re.sub(option, lambda found: f"--{names[found[1]]}", str(error))
        raise InputError(text) from None


def parse_flags(
    cls: type[schema.T], flags: Sequence[str], program: str, default: schema.T
) -> schema.T:
    """A `cls` from flags alone; tyro's report of an error becomes one line."""
    if {"-h", "--help"} & set(flags):
        tyro.cli(cls, args=["--help"], prog=program, default=default)
    try:
        with captured_report() as report:
            return tyro.cli(cls, args=list(flags), prog=program, default=default)
    except SystemExit:
        raise InputError(one_line(report.getvalue(), flags)) from None
