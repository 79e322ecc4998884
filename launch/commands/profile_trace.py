"""`testbed profile --from-trace FILE`: a torch.profiler trace, as JSON that `testbed plan` reads.

    python -m launch profile --from-trace trace.json.gz --model net.py:Net --out net.json

The trace is of a few training steps of one rank. What it takes to make a good one:

    with torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=6, repeat=1),
        on_trace_ready=lambda p: p.export_chrome_trace("trace.json.gz"),
        record_shapes=True,                  # the bytes of outputs and parameters
        with_stack=True,                     # the names of modules
    ) as p:
        for batch in batches:
            train(batch)
            p.step()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from systems import by_path
from systems.flags import parse_flags
from systems.profiles.model_layers import KnownLayer, layers_that_run
from systems.profiles.profile import ModelProfile, save_measured
from systems.profiles.trace_file import REMEDY, read_trace
from systems.profiles.trace_layers import TracedLayers, find_layers
from systems.profiles.trace_profile import TracedModel, make_profile
from systems.runs.record import check_new_file
from systems.schema import InputError

SHOWN = 8
"""How many kinds of work outside layers are printed; the rest is summed up."""


@dataclass(frozen=True, kw_only=True)
class TraceArguments:
    """Read the layers' times in a trace that torch.profiler has made of training steps."""

    trace: Annotated[str, tyro.conf.Positional] = "trace.json"
    """The file to read: what export_chrome_trace has written, in gzip or not."""
    model: str | None = None
    """The traced model, as package.module:attribute or path/to/file.py:attribute. It tells the
    names of layers, and bytes that the trace does not. None: layers are called as in the trace."""
    layers: Literal["modules", "ranges"] | None = None
    """What a layer is: a call of a module, or a range of record_function. None: modules, where the
    trace names some."""
    model_options: tuple[str, ...] = ()
    """Arguments of the model, such as classes=10."""
    name: str | None = None
    """What the profile calls the model. None: as --model without its folder, or as the file."""
    device: str | None = None
    """The kind of device, as cluster files name it. None: the GPU's name in the trace, or cpu."""
    batch_size: int | None = None
    """The samples of a step. None: the first dimension of what the model takes."""
    out: str = "profile.json"
    """A new JSON file for the profile."""


def main(arguments: Sequence[str]) -> None:
    """Read the file, print what was found in it and what was not, write the profile."""
    program = "testbed profile --from-trace"
    flags = parse_flags(TraceArguments, arguments, program, TraceArguments())
    path, out = Path(flags.trace), Path(flags.out)
    check_new_file(out)
    if flags.batch_size is not None and flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: give 1 or more")
    trace = read_trace(path)
    traced = find_layers(trace, path, flags.layers)
    model = TracedModel(
        name=flags.name or by_path.short(flags.model or path.name.partition(".")[0]),
        device=flags.device or trace.device,
        batch_size=flags.batch_size or _batch_size(traced, path),
        layers=None if flags.model is None else _layers(flags, traced, path),
    )
    profile = make_profile(traced, model, path)
    _print(profile, traced)
    save_measured(profile, out, "--from-trace")


def _batch_size(traced: TracedLayers, path: Path) -> int:
    """The first dimension of what the model takes."""
    takes = traced.steps[0].takes
    if takes is None:
        raise InputError(f"trace {path}: has no shapes, so no batch size is known; {REMEDY}")
    return takes[0][0]


def _layers(flags: TraceArguments, traced: TracedLayers, path: Path) -> list[KnownLayer]:
    """The layers of the model that a user names, in the order in which they run."""
    from torch import nn

    assert flags.model is not None
    where = f"--model {flags.model}"
    takes = traced.steps[0].takes
    if takes is None:
        raise InputError(f"trace {path}: has no shapes that {where} could be run with; {REMEDY}")
    if not by_path.is_path(flags.model):
        raise InputError(f"{where}: give module:attribute or path/to/file.py:attribute")
    options = by_path.keywords(flags.model_options, "--model-options")
    factory = by_path.load(flags.model, "--model")
    model = by_path.apply(factory, flags.model, "--model", **options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{where}: makes a {type(model).__name__}; give what makes an nn.Module")
    return layers_that_run(model, *takes, where)


def _print(profile: ModelProfile, traced: TracedLayers) -> None:
    """Print the layers, their share of a step, and what was left out."""
    width = max(len(layer.name) for layer in profile.layers)
    print(f"{'layer':{width}}  forward ms  backward ms    output MB  parameters MB")
    for layer in profile.layers:
        print(
            f"{layer.name:{width}}  {layer.forward_s * 1e3:10.3f}  {layer.backward_s * 1e3:11.3f}  "
            f"{layer.activation_bytes / 1e6:11.3f}  {layer.parameter_bytes / 1e6:13.3f}"
        )
    step = traced.step_s
    layers_s = profile.forward_s + profile.backward_s
    print(
        f"a step: median {step.median * 1e3:.3f} ms, quartiles {step.low * 1e3:.3f} and "
        f"{step.high * 1e3:.3f}, n={step.n}; layers: {layers_s * 1e3:.3f} ms, "
        f"{layers_s / step.median:.0%} of it; no layer's:"
    )
    outside = sorted(traced.outside_s.items(), key=lambda item: -item[1])
    rest_s = sum(seconds for _, seconds in outside[SHOWN:])
    if rest_s:
        outside = [*outside[:SHOWN], (f"{len(outside) - SHOWN} other operators", rest_s)]
    for name, seconds in outside:
        if seconds:
            print(f"  {seconds * 1e3:10.3f} ms  {seconds / step.median:4.0%}  {name}")
    for note in traced.notes:
        print(f"  note: {note}")
