"""What the ranks of a shaped run measure: their links, their speeds, and the layers of the job.

`python -m launch ranks --measure FOLDER` measures a shaped cluster before its runs. The folder
holds the job and the shape, and gets what was measured.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from launch import job as jobs
from launch.installed import system_of
from launch.ranks import files
from systems import schema
from systems.clusters.host import Host
from systems.clusters.shape import Shape
from systems.environment import Environment
from systems.network.distributed import World, start, stop
from systems.network.host_here import shared_host
from systems.network.links import Calibration, calibrate_pairs
from systems.network.pairs import PairCalibration
from systems.network.together import seconds_together, speeds_per_s
from systems.processes import core_shares
from systems.processes.core_shares import throttled
from systems.processes.host import host_reading, host_use
from systems.profiles.profile import ModelProfile
from systems.runs import record
from systems.runs.shaped import Conditions, Measured, Shaped, doubts
from systems.schema import InputError

CALIBRATION_S = 0.1
"""How many seconds a message lasts that measures a link."""


def measure(folder: Path, place: Environment) -> None:
    """Do this rank's part of the measurement of a shaped cluster. Rank 0 writes what was found.

    Raises:
        InputError: a link is far from its rate, or the job's model cannot be measured.
    """
    job, shape = jobs.load_job(folder / files.JOB), read_shape(folder)
    world = start(place, ["rank"] * place.world_size, timeout_s=job.timeout_s, device="cpu")
    calibration = checked_pairs(shape)
    speeds = speeds_per_s()
    host = probed(world, shape)
    profile, shaping = None, system_of(job).shaping
    if shaping is not None:
        profile = shaping.profile(job, shape.devices[place.rank].kind, seconds_together)
    everyone: list[Any] = [None] * place.world_size
    with world.meeting("the gathering of the profiles"):
        dist.gather_object(profile, everyone if place.rank == 0 else None, dst=0)
    if place.rank == 0:
        profiles = {} if profile is None else _by_kind(everyone)
        measured = Measured(
            calibration=calibration, speeds_per_s=speeds, profiles=profiles, host=host
        )
        record.write_json(folder / files.MEASURED, schema.dump(measured))
    stop(world)


def read_shape(folder: Path) -> Shape:
    """The shape of a measurement."""
    return schema.read(Shape, record.read_json(folder / files.SHAPE), str(folder))


def probed(world: World, shape: Shape) -> Host | None:
    """Return what a probe has measured of ranks that are all alike, now or before; None where ranks
    differ. All ranks call this together."""
    if not shape.is_uniform:
        return None
    held = core_shares.unavailable() is None
    host = shared_host(
        world,
        share=shape.core_shares[0] if held else None,
        bandwidth_bits_per_s=shape.rates_bits_per_s[0],
    )
    return dataclasses.replace(host, period_s=core_shares.PERIOD_US / 1e6)


def _by_kind(profiles: Sequence[ModelProfile]) -> dict[str, ModelProfile]:
    """Choose a profile for each kind of device: the median one of its ranks."""
    median_of: dict[str, ModelProfile] = {}
    for kind in dict.fromkeys(profile.device for profile in profiles):
        alike = [profile for profile in profiles if profile.device == kind]
        alike.sort(key=lambda profile: profile.forward_s + profile.backward_s)
        median_of[kind] = alike[len(alike) // 2]
    return median_of


def checked_pairs(shape: Shape) -> PairCalibration:
    """Measure what every two ranks get from each other. All ranks call this together.

    Raises:
        InputError: a pair is far from its rate, so that nothing measured over it would be true.
    """
    calibration = calibrate_pairs(shape.rates_bits_per_s, CALIBRATION_S)
    if dist.get_rank() == 0:
        print(f"links: {calibration}", flush=True)
    fault = None if shape.impairments else calibration.fault()
    if fault is not None:
        raise InputError(
            f"{fault}: nothing is reported; give slower links or larger shares of the cores, or "
            "wait until this machine is idle"
        )
    return calibration


class Watch:
    """Watches a rank while it runs a job on a shaped cluster. All ranks make and close it
    together."""

    def __init__(self) -> None:
        """Measure the speeds of all ranks, and begin."""
        self._before_per_s = speeds_per_s()
        self._throttled, self._processor_s = throttled(), time.process_time()
        self._host = host_reading()

    def close(self) -> Conditions:
        """End, and measure the speeds again; returns what was found."""
        host, counts = host_reading(), throttled()
        own_s = time.process_time() - self._processor_s
        share = None
        if counts is not None and self._throttled is not None:
            periods = counts.periods - self._throttled.periods
            share = (counts.throttled - self._throttled.throttled) / max(1, periods)
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (own_s, share))
        use = None
        if host is not None and self._host is not None:
            use = host_use(self._host, host, sum(seconds for seconds, _ in everyone))
        return Conditions(
            before_per_s=self._before_per_s,
            after_per_s=speeds_per_s(),
            throttled=tuple(share for _, share in everyone),
            host=use,
        )


def shaped_result(
    shaped: Shaped, conditions: Conditions, calibration: Calibration | PairCalibration | None
) -> dict[str, Any]:
    """Return the entries that only the result of a shaped run has."""
    return {
        "tier": "shaped",
        "shape": {**schema.dump(shaped.shape), "held": shaped.held},
        "calibration": schema.dump(calibration),
        "simulated_step_s": shaped.simulated_step_s,
        "speeds_per_s": {
            "profiled": shaped.measured.speeds_per_s,
            "before": conditions.before_per_s,
            "after": conditions.after_per_s,
        },
        "throttled": conditions.throttled,
        "host": None if conditions.host is None else schema.dump(conditions.host),
        "host_busy": doubts(shaped, conditions),
    }
