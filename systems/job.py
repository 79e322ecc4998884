"""A job: everything that determines a run of one system.

The fields of `Job` belong to every run. The options of the system itself stand in one more field,
which is named like the system: `job_type` makes, for each system, the subclass of `Job` that has
it. So a job file says `steps = 7` in its table `[stanza]`, a flag says `--stanza.steps 7`, and code
that knows no system by name reads `job.options`.

A relative path in a job file is looked for beside the file first, then in the working directory. A
relative path in a flag, and `out` wherever it stands, are relative to the working directory.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from systems.clusters import cluster
from systems.named_files import absolute_path, absolute_profile
from systems.schema import InputError

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

    name: str
    """The name of the job. The folder of its record is named after it."""
    system: str
    """The system to run. The options of the other systems are then not used."""
    world_size: int = 4
    """The number of ranks, one for each node of the cluster. torchrun, mpirun or srun overrule it
    where they start the ranks themselves."""
    cluster: str = "local"
    """The cluster to plan for: the name of a preset (`testbed doctor` lists them), or a TOML
    file."""
    profile: str | None = None
    """The measured profile to plan with: a model's name or a JSON file; where devices differ, one
    for each kind, as in V100=a.json,T4=b.json. None means the profile of the job's model, if one
    ships."""
    launcher: Literal["torchrun", "local", "mpirun", "deepspeed", "slurm"] = "torchrun"
    """The program that starts the ranks. "local" starts plain processes on this machine. "slurm"
    writes a script and hands it to sbatch."""
    transport: Literal["torch", "nccl", "mpi"] = "torch"
    """What carries messages between two ranks: torch.distributed over gloo (from GPUs through the
    host's memory), NCCL (one GPU a rank), or mpi4py."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to compute on. "auto" takes GPUs if there is one for every rank, else the CPU;
    with "cuda" ranks share the GPUs that there are."""
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

    def __post_init__(self) -> None:
        if not 1 <= self.world_size <= cluster.MOST_NODES:
            raise InputError(
                f"--world-size {self.world_size}: give 1 or more ranks, at most "
                f"{cluster.MOST_NODES}"
            )
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
        if self.transport == "nccl" and self.device == "cpu":
            raise InputError("--transport nccl: sends from GPUs; leave out --device cpu")

    @property
    def backend(self) -> Literal["gloo", "nccl"]:
        """The backend of torch.distributed, for messages and collectives alike."""
        return "nccl" if self.transport == "nccl" else "gloo"

    @property
    def options(self) -> Any:
        """The options of the job's system."""
        return getattr(self, self.system)

    def with_options(self, **changes: Any) -> Self:
        """The job with other options of its system, such as `job.with_options(steps=7)`."""
        options: Any = dataclasses.replace(self.options, **changes)
        changed: dict[str, Any] = {self.system: options}
        return dataclasses.replace(self, **changed)


J = TypeVar("J", bound=Job)
_TYPES: dict[tuple[type, str, type], type] = {}
"""The classes that `job_type` has made."""


def job_type(base: type[J], system: str, options: type) -> type[J]:
    """The class of the jobs of a system, made once.

    Args:
        base: `Job`, or a subclass with the flags of a command.
        system: the name of the system, and of the field of its options.
        options: the frozen dataclass of its options. Every field has a default.

    Raises:
        InputError: the name is no word of small letters, digits and underscores, or it is the name
            of a field that all jobs have.
    """
    key = base, system, options
    if key in _TYPES:
        return _TYPES[key]
    if not re.fullmatch("[a-z][a-z0-9_]*", system):
        raise InputError(
            f"--system {system}: is not a name for a system; it needs one of small letters, digits "
            "and underscores"
        )
    if system in {f.name for f in dataclasses.fields(base)}:
        raise InputError(f"--system {system}: its name is that of a flag of every job")
    _TYPES[key] = dataclasses.make_dataclass(
        base.__name__,
        [
            ("name", str, system),
            ("system", str, system),
            (system, options, field(default_factory=options)),
        ],
        bases=(base,),
        namespace={"__doc__": base.__doc__, "__module__": base.__module__},
        frozen=True,
        kw_only=True,
    )
    return _TYPES[key]


def job_alone(job: Job) -> Job:
    """The job without the flags of its own that a command adds to it."""
    return job_type(Job, job.system, type(job.options))(**job_fields(job))


def job_fields(job: Job) -> dict[str, Any]:
    """The fields of a job by name, with the options of its system, without those of a command."""
    names = [f.name for f in dataclasses.fields(Job)]
    return {name: getattr(job, name) for name in [*names, job.system]}


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


def with_absolute_files(job: J, *folders: Path) -> J:
    """The job with absolute paths instead of relative ones, for all files that it reads and that
    every run may name. Those in the options of its system are left to the system.

    Args:
        folders: where to look for a relative path; the first folder that has it wins. A path that
            none of them has stays as it is, and so does `out`, which is written and not read.
    """
    names: dict[str, Any] = {}
    if job.cluster not in cluster.presets():
        names["cluster"] = absolute_path(job.cluster, folders)
    if job.profile is not None:
        names["profile"] = absolute_profile(job.profile, folders)
    if job.resume not in ("auto", "never"):
        names["resume"] = absolute_path(job.resume, folders)
    return dataclasses.replace(job, **names)
