"""Measures on this machine what a Stanza job is planned with: a profile of its model, and the link
or the cores that its ranks share.
"""

import math
import sys

from stanza.models import build_model, is_own
from stanza.options import Options
from systems import by_path
from systems.clusters.cluster import Cluster, Link
from systems.clusters.host import Host
from systems.environment import threads_per_rank
from systems.gpus import on_gpus
from systems.profiles.profile import ModelProfile, with_fixed_parts
from systems.profiles.steadiness import load_average, warn_if_doubtful
from systems.schema import InputError

REPETITIONS = 9
"""How often each layer is timed."""
UNASKED_S = 300
"""A plan measures a model for so long at the most. Whoever wants more asks for it, by `testbed
profile`."""


def measure_here(target: Cluster, profile: ModelProfile) -> Cluster:
    """The cluster whose nodes are ranks of this machine, with what is measured of it: the machine
    that they share, or, where each has a GPU, the loopback link between them."""
    target = target.with_kind(profile.device)
    if profile.device == "cpu":
        return target.on(measure_host(target.size))
    return target.with_link(measure_link(target.size))


def measure_profile(
    options: Options,
    batch_size: int | None = None,
    *,
    at_most_s: float = math.inf,
    device: str = "auto",
) -> ModelProfile:
    """Profile a model on one device of this machine, with nothing beside it.

    Before it starts, it prints how long that will take.

    Args:
        batch_size: the samples in a batch; None takes the batch size of the model.
        at_most_s: how many seconds it may take.
        device: "auto" is a GPU if there is one.

    Raises:
        InputError: it would take longer, a model of the user's own cannot be made, or a layer of it
            cannot run alone.
    """
    import torch

    from stanza.models.dry_run import trial_run
    from stanza.train.data import input_of
    from systems.profiles import measured_profile

    image_shape, classes = input_of(options)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda" if on_gpu else "cpu")
    images = torch.randn(batch_size or options.inputs.batch_size, *image_shape).to(place)
    model = build_model(options.model, classes, image_shape).to(place)
    if is_own(options.model):
        trial_run(model, image_shape, by_path.short(options.model), samples=2)
    name = by_path.short(options.model)
    try:
        load = load_average()
        effort = measured_profile.effort(model, images, repetitions=REPETITIONS)
        if effort.seconds > at_most_s:
            raise InputError(
                f"--stanza.model {options.model}: no profile of it on this device is given, and "
                f"to measure one takes about {effort}; do that with `testbed profile stanza`, and "
                "give it with --profile FILE"
            )
        spared = "" if at_most_s == math.inf else "; a profile spares it: --profile FILE"
        print(
            f"measuring {name}, batch {len(images)}, on {place}: about {effort}{spared}",
            file=sys.stderr,
            flush=True,
        )
        kind = device_here() if on_gpu else "cpu"
        measured = measured_profile.profile_model(
            model, images, name=name, device_kind=kind, repetitions=REPETITIONS
        )
        warn_if_doubtful(measured, load)
        return measured
    except (AttributeError, IndexError, TypeError) as error:  # a layer takes or returns no tensor
        raise InputError(
            f"--stanza.model {options.model}: a layer cannot be measured alone: "
            f"{by_path.failure(error)}; a layer takes one tensor and returns one"
        ) from error


def measure_rank(options: Options, world_size: int, device: str = "auto") -> ModelProfile:
    """A profile of a model on one of `world_size` ranks of this machine, while the others wait: on
    what `--device` gives such ranks, and on CPUs with the threads that each of so many gets.

    Raises:
        InputError: see `measure_profile`; nobody has asked for it, so it may not take long.
    """
    import torch

    if on_gpus(device, world_size):
        return measure_profile(options, at_most_s=UNASKED_S, device="cuda")
    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_rank(world_size))
    large = options.inputs.batch_size
    try:
        whole = measure_profile(options, large, at_most_s=UNASKED_S, device="cpu")
        small = measure_profile(options, max(1, large // 8), device="cpu")
        return with_fixed_parts(whole, small)
    finally:
        torch.set_num_threads(before)


def measure_host(world_size: int) -> Host:
    """Describe this machine, whose cores `world_size` ranks share, as a probe finds it or has found
    it."""
    from systems.network.host_here import host_here

    return host_here(world_size, threads_per_rank(world_size))


def measure_link(world_size: int) -> Link:
    """The link that each of `world_size` ranks of this machine has over loopback, as measured."""
    from systems.network.loopback import measure_loopback

    print(f"measuring the loopback link with {world_size} processes over gloo", file=sys.stderr)
    return measure_loopback(world_size)


def device_here() -> str:
    """The kind of device that this machine has, as profiles that are measured here name it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
