"""A job: everything that determines a run. Flags win over the job file (TOML), which wins over the
defaults.

    python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4

A relative path in a job file is looked for beside the file first, then in the working directory. A
relative path in a flag, and `out` wherever it stands, are relative to the working directory.
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
from sparsepipe.names import DATA as CLOUDS
from sparsepipe.options import OWN, Options as SparsePipeOptions
from speculative.options import Options as SpeculativeOptions
from stanza.options import DATA_KINDS, Options as StanzaOptions
from systems import by_path, disk, schema
from systems.clusters import cluster
from systems.schema import InputError, filled_in

LONGEST_TIMEOUT_S = 86400.0
"""A day."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What a job asks of SLURM."""

    nodes: int = 1
    """The number of nodes. The ranks are spread evenly over them."""
    options: tuple[str, ...] = ()
    """More long options of sbatch, without dashes: partition=gpu time=30 gres=gpu:4."""

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
    """Run one system."""

    name: str = "stanza"
    """The name of the job. The folder of its record is named after it."""
    system: Literal["stanza", "sparsepipe", "speculative"] = "stanza"
    """The system to run. The options of the other systems are then not used."""
    world_size: int = 4
    """The number of ranks, one for each node of the cluster. torchrun, mpirun or srun overrule it
    where they start the ranks themselves."""
    cluster: str = "local"
    """The cluster to plan for: the name of a preset (`launch doctor` lists them) or a TOML file."""
    profile: str | None = None
    """The measured profile to plan with: a model's name or a JSON file. None means the profile of
    the job's model, if one ships."""
    launcher: Literal["torchrun", "local", "mpirun", "deepspeed", "slurm"] = "torchrun"
    """The program that starts the ranks. "local" starts plain processes on this machine. "slurm"
    writes a script and hands it to sbatch."""
    transport: Literal["torch", "mpi"] = "torch"
    """The library that carries messages between two ranks: torch.distributed or mpi4py."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on. "auto" takes GPUs if there is one for every rank, else the CPU."""
    seed: int = 0
    """The seed of the initial weights and of the order of samples."""
    timeout_s: float = 120.0
    """The longest time in seconds that a rank waits for another one."""
    checkpoint_every: int = 0
    """Save a checkpoint every so many steps, and the trained model at the end. 0 saves neither."""
    checkpoint_keep: int = 3
    """How many checkpoints to keep. Older ones are removed."""
    resume: str = "auto"
    """Where to begin. "auto" goes on from the newest sound checkpoint in the record of this run, if
    there is one. "never" begins anew. The path of another record or checkpoint goes on from that
    one, if this run has none of its own."""
    max_restarts: int = 0
    """How often torchrun may start all ranks again after it has lost one."""
    trace: bool = False
    """Write a trace of every rank for Chrome or Perfetto."""
    torch_profiler: bool = False
    """Write a trace of torch.profiler over a few steps of every rank."""
    out: str | None = None
    """The folder of the record. None makes a new one under runs/."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """What `--launcher slurm` asks for."""
    stanza: StanzaOptions = field(default_factory=StanzaOptions)
    """The options of Stanza."""
    sparsepipe: SparsePipeOptions = field(default_factory=SparsePipeOptions)
    """The options of SparsePipe."""
    speculative: SpeculativeOptions = field(default_factory=SpeculativeOptions)
    """The options of speculative sampling."""

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
WithData = TypeVar("WithData", StanzaOptions, SparsePipeOptions)


def check_seed(seed: int) -> None:
    """Raise an InputError for a seed that NumPy or torch does not accept."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give 0 to {2**32 - 1}")


def _check_survival(job: Job) -> None:
    """Raise an InputError for numbers of checkpoints or restarts that cannot be, and for restarts
    with a launcher that does not restart ranks."""
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


def load_job(path: Path) -> Job:
    """The job in a TOML file.

    Raises:
        InputError: there is no such file, it is not TOML, or it holds a key or a value that no
            option has.
    """
    if not path.is_file():
        ready = sorted(p.name for p in (Path(__file__).parent / "jobs").glob("*.toml"))
        raise InputError(f"job {path}: no such file; ready jobs in launch/jobs: {', '.join(ready)}")
    return with_absolute_paths(schema.load_toml(Job, path), path.parent, Path())


def save_job(job: Job, path: Path) -> None:
    """Write a job as TOML. `load_job` reads an equal job from it, in whatever working directory."""
    disk.write_text(path, tomli_w.dumps(schema.dump(with_absolute_paths(job, Path()))))


def with_absolute_paths(job: J, *folders: Path) -> J:
    """The job with absolute paths instead of relative ones, for all files that it reads.

    Args:
        folders: where to look for a relative path; the first folder that has it wins. A path that
            none of them has stays as it is, and so does `out`, which is written and not read.
    """
    names: dict[str, Any] = {}
    if job.cluster not in cluster.presets():
        names["cluster"] = _absolute(job.cluster, folders)
    if job.profile is not None:
        names["profile"] = _absolute_file(job.profile, folders)
    if job.resume not in ("auto", "never"):
        names["resume"] = _absolute(job.resume, folders)
    code = ("model", "optimizer", "schedule", "loss")
    names["stanza"] = _with_absolute_code(job.stanza, code, DATA_KINDS, folders)
    sparse = _with_absolute_code(job.sparsepipe, OWN, CLOUDS, folders)
    names["sparsepipe"] = dataclasses.replace(
        sparse,
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


def _with_absolute_code(
    options: WithData, names: Sequence[str], kinds: Sequence[str], folders: Sequence[Path]
) -> WithData:
    """A system's options with absolute paths of the user's own files, and of the data.

    Args:
        names: the options that may name a user's own code.
        kinds: the kinds of data that have a path after a colon.
    """
    named = {name: getattr(options, name) for name in (*names, "data")}
    found: dict[str, Any] = {
        name: value and by_path.absolute(value, folders) for name, value in named.items()
    }
    if not by_path.is_path(named["data"], kinds):
        found["data"] = _absolute_data(named["data"], folders)
    return dataclasses.replace(options, **found)


def _absolute(name: str, folders: Sequence[Path], **filled: str) -> str:
    """The absolute path of a file in the first folder that has it, or the name as it is. `filled`
    gives the values of words in braces, such as `{task}`."""
    for folder in folders:
        path = folder / filled_in(name, **filled)
        if name and os.path.exists(path):  # unlike Path's, it raises nothing
            return os.path.abspath(folder / name)
    return name


def _absolute_file(name: str, folders: Sequence[Path]) -> str:
    """The absolute path of a profile in a JSON file. The name of a shipped one stays as it is."""
    return _absolute(name, folders) if name.endswith(".json") else name


def _absolute_data(data: str, folders: Sequence[Path]) -> str:
    """Data such as folder:PATH, or jsonl:PATH,DOCUMENT,SUMMARY, with an absolute path."""
    kind, colon, path = data.partition(":")
    path, comma, keys = path.partition(",") if kind == "jsonl" else (path, "", "")
    return f"{kind}{colon}{_absolute(path, folders)}{comma}{keys}"


def without_flags_of_command(job: Job) -> Job:
    """The job alone, without the flags of its own that a command adds to it."""
    return Job(**job_fields(job))


def job_fields(job: Job) -> dict[str, Any]:
    """The fields of a job by name, without those of a subclass."""
    return {f.name: getattr(job, f.name) for f in dataclasses.fields(Job)}


def parse_job(command: str, arguments: Sequence[str], default: J) -> J:
    """The job that a command line means: an optional job file, then flags.

    Args:
        default: the job without either. A command with flags of its own gives a subclass of Job.

    Raises:
        InputError: there is no such flag, or it does not accept the value.
    """
    flags = list(arguments)
    if flags and not flags[0].startswith("-"):
        job = load_job(Path(flags.pop(0)))
        default = dataclasses.replace(default, **job_fields(job))
    parsed = parse_flags(type(default), flags, f"launch {command} [JOB.toml]", default)
    return with_absolute_paths(parsed, Path())


def refuse_below_one(numbers: Mapping[str, Sequence[int]]) -> None:
    """Raise an InputError for the first flag, by name, that has no values or one below 1."""
    for name, values in numbers.items():
        if not values or min(values) < 1:
            shown = " ".join(map(str, values)) or "(none)"
            raise InputError(f"--{name} {shown}: give whole numbers from 1 on")


@contextmanager
def named_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Rewrite errors that are raised in the block, so that they name the options of this command.

    Args:
        names: the name of an option elsewhere, and its name here, without dashes: for a command
            whose --model is the --stanza.model of a job, {"stanza.model": "model"}.
    """
    try:
        yield
    except InputError as error:
        elsewhere = "|".join(map(re.escape, names))
        option = rf"(?<![\w-])--({elsewhere})(?![\w-])"
        text = re.sub(option, lambda match: f"--{names[match[1]]}", str(error))
        raise InputError(text) from None


def parse_flags(
    cls: type[schema.T], flags: Sequence[str], program: str, default: schema.T
) -> schema.T:
    """A `cls` made from flags alone. `--help` among them prints the options and ends the process.

    Raises:
        InputError: the flags cannot be parsed; tyro's report of it, as one line.
    """
    if {"-h", "--help"} & set(flags):
        tyro.cli(cls, args=["--help"], prog=program, default=default)
    try:
        with captured_report() as report:
            return tyro.cli(cls, args=list(flags), prog=program, default=default)
    except SystemExit:
        raise InputError(one_line(report.getvalue(), flags)) from None
