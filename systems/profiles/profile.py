"""Per-layer profiles: what every layer of a model costs on one kind of device.

A profile is measured on this machine (`systems.profiles.measured_profile`), or read from a file
that someone measured: our JSON, or the `graph.txt` format of PipeDream and SparsePipe
(`systems.profiles.graph_file`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from systems import disk, schema
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """What one layer costs on one device, for a whole batch of the profile's size."""

    name: str
    """The name of the layer in its model."""
    operation: str
    """The layer as PyTorch prints it, such as "Linear(in_features=9216, ...)"."""
    forward_s: float
    """Seconds of the forward pass."""
    backward_s: float
    """Seconds of the backward pass, the gradient of the inputs included."""
    activation_bytes: int
    """Size of the layer's output."""
    parameter_bytes: int
    """Size of the layer's parameters."""
    inputs: tuple[str, ...] = ()
    """Names of the layers whose outputs this one reads."""
    fixed_forward_s: float = 0.0
    """The part of `forward_s` that does not grow with the batch; known from two batch sizes."""
    fixed_backward_s: float = 0.0
    """The same part of `backward_s`."""
    update_s: float = 0.0
    """Seconds of the optimizer's update of its parameters, once for a mini-batch, where that was
    measured. It is no part of `backward_s`."""

    def __post_init__(self) -> None:
        for name in ("forward_s", "backward_s", "activation_bytes", "parameter_bytes", "update_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} = {value:g}: layer {self.name!r} needs 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """All layers of a model, in an order in which they can run."""

    name: str
    """The name of the model."""
    device: str
    """The kind of device, as cluster files name it, such as "V100"."""
    batch_size: int
    """The samples in the batch that was measured."""
    source: str
    """Who measured this, where."""
    layers: tuple[LayerProfile, ...]
    """Every layer after those whose outputs it reads."""
    threads: int | None = None
    """The threads of the process that was measured on a CPU. None: not known, or on a GPU."""
    low: float | None = None
    """The time of both passes at the lower quartile of the repetitions, over that at the median."""
    high: float | None = None
    """The same at the upper quartile. None: nobody has said."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size = {self.batch_size}: give 1 or more samples")
        if not self.layers:
            raise InputError("layers is empty; a profile needs at least one")

    @property
    def forward_s(self) -> float:
        """Forward seconds of the whole model at `batch_size`."""
        return sum(layer.forward_s for layer in self.layers)

    @property
    def backward_s(self) -> float:
        """Backward seconds of the whole model at `batch_size`."""
        return sum(layer.backward_s for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(layer.parameter_bytes for layer in self.layers)

    def at_batch_size(self, batch_size: int) -> "ModelProfile":
        """The profile for a batch of another size.

        Times and activations grow linearly with the samples, except for the fixed parts of times.

        Raises:
            InputError: the batch has no samples.
        """
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: give 1 or more samples")
        factor = batch_size / self.batch_size
        layers = tuple(_scaled(layer, factor) for layer in self.layers)
        return replace(self, batch_size=batch_size, layers=layers)

    def slowed(self, factor: float, why: str) -> "ModelProfile":
        """The profile of a device that is `factor` times slower; `why` is added to the source."""
        layers = tuple(
            replace(
                layer,
                forward_s=layer.forward_s * factor,
                backward_s=layer.backward_s * factor,
                fixed_forward_s=layer.fixed_forward_s * factor,
                fixed_backward_s=layer.fixed_backward_s * factor,
                update_s=layer.update_s * factor,
            )
            for layer in self.layers
        )
        return replace(self, layers=layers, source=f"{self.source}; times x {factor:g}: {why}")


def _scaled(layer: LayerProfile, factor: float) -> LayerProfile:
    """The layer for a batch that is `factor` times as large."""
    forward = layer.fixed_forward_s + (layer.forward_s - layer.fixed_forward_s) * factor
    backward = layer.fixed_backward_s + (layer.backward_s - layer.fixed_backward_s) * factor
    activation = round(layer.activation_bytes * factor)
    return replace(layer, forward_s=forward, backward_s=backward, activation_bytes=activation)


def with_fixed_parts(large: ModelProfile, small: ModelProfile) -> ModelProfile:
    """The profile `large` with the fixed part of every layer's times.

    The fixed part is what remains at batch size 0 on a straight line through the times at two batch
    sizes. Noise can make it negative; it then counts as 0.

    Args:
        large: the profile at the larger batch size.
        small: the profile of the same model at the smaller one.

    Raises:
        InputError: the two are not of one model, or not at two batch sizes.
    """
    if small.batch_size >= large.batch_size or len(small.layers) != len(large.layers):
        raise InputError("fixed parts need two profiles of one model, at two batch sizes")
    ratio = small.batch_size / large.batch_size

    def intercept(at_large: float, at_small: float) -> float:
        """The seconds of a batch without samples, from those of the two batches."""
        return min(max(0.0, (at_small - at_large * ratio) / (1 - ratio)), at_small, at_large)

    layers = tuple(
        replace(
            a,
            fixed_forward_s=intercept(a.forward_s, b.forward_s),
            fixed_backward_s=intercept(a.backward_s, b.backward_s),
        )
        for a, b in zip(large.layers, small.layers, strict=True)
    )
    return replace(large, layers=layers)


def load(path: Path) -> ModelProfile:
    """Read a profile from a JSON file that `save` has written.

    Raises:
        InputError: there is no such file, or it holds no profile.
    """
    return schema.load(ModelProfile, path, "profile", "testbed profile")


def named(name: str, shipped: Mapping[str, Path], flag: str) -> ModelProfile:
    """Read the profile that a user names, either one that ships or a JSON file.

    Args:
        name: what the user wrote.
        shipped: the files of the profiles that ship, by name.
        flag: the option that the user wrote it for, for messages.

    Raises:
        InputError: no profile of that name ships, and it is no JSON file.
    """
    if name in shipped or Path(name).suffix == ".json":
        return load(shipped.get(name, Path(name)))
    raise InputError(
        f"{flag} {name}: no measured profile of that name; "
        f"{schema.remedy(name, shipped)}, or a file made with `testbed profile`"
    )


def files_by_kind(text: str | None, kinds: Sequence[str]) -> dict[str, str]:
    """Parse what `--profile` names for each kind of device: V100=a.json,T4=b.json, or one for the
    only kind; nothing where it is not given.

    Raises:
        InputError: it names a kind that the cluster does not have, or not every kind.
    """
    if text is None:
        return {}
    if "=" not in text and len(kinds) == 1:
        return {kinds[0]: text}
    words = {kind: file for kind, _, file in (word.partition("=") for word in text.split(","))}
    unknown = next((kind for kind, file in words.items() if kind not in kinds or not file), None)
    missing = next((kind for kind in kinds if kind not in words), None)
    if unknown is not None or missing is not None:
        said = f"no {missing}" if unknown is None else f"{unknown!r} is no kind of device there"
        if "=" not in text:
            said = "is one profile for devices of several kinds"
        example = ",".join(f"{kind}=FILE.json" for kind in kinds)
        raise InputError(
            f"--profile {text}: {said}; the cluster has {' and '.join(kinds)}, give {example}"
        )
    return words


def save(profile: ModelProfile, path: Path) -> None:
    """Write `profile` as JSON, one layer a line."""
    table = schema.dump(profile)
    layers = ",\n".join("    " + schema.to_json(layer) for layer in table.pop("layers"))
    head = schema.to_json(table, indent=2).removesuffix("\n}")
    disk.write_text(path, f'{head},\n  "layers": [\n{layers}\n  ]\n}}\n')


def save_measured(measured: ModelProfile, path: Path, system: str) -> None:
    """Write a profile that a system's `testbed profile` has measured, and print its summary."""
    save(measured, path)
    both_s = measured.forward_s + measured.backward_s
    spread = ""
    if measured.low is not None and measured.high is not None:
        ends = f"{both_s * measured.low * 1e3:.2f}, {both_s * measured.high * 1e3:.2f}"
        spread = f", together {both_s * 1e3:.2f} [{ends}] ms (median and quartiles)"
    threads = "" if measured.threads is None else f", threads {measured.threads}"
    print(
        f"profile {system} | tier measured | {measured.name}, batch {measured.batch_size} on "
        f"{measured.device}{threads}: forward {measured.forward_s * 1e3:.2f} ms, backward "
        f"{measured.backward_s * 1e3:.2f} ms{spread}, {len(measured.layers)} layers, "
        f"{measured.parameter_bytes / 1e6:.1f} MB of parameters\n  profile: {path}"
    )
