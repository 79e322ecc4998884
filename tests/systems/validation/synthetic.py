"""A tiny set of measured jobs in Sailor's format, and pipelines made by hand."""

import json
from pathlib import Path
from typing import Any

from systems.validation.times import Message, StageTimes

LAYERS = 4
MEGA = 10**6


def stage(
    forward_s: float,
    backward_s: float,
    message_s: float | None = None,
    *,
    eager: bool = True,
    number: int = 0,
    replicas: int = 1,
    ring_s: float = 0.0,
) -> StageTimes:
    """A stage whose replicas stand alone on their machines; `message_s` is None for the last."""

    def message(source: int, target: int) -> Message:
        assert message_s is not None
        return Message(loads_s={(source, "out"): message_s, (target, "in"): message_s}, eager=eager)

    here = [number * replicas + replica for replica in range(replicas)]
    behind = [] if message_s is None else [machine + replicas for machine in here]
    ways = [(machine, way) for machine in here for way in ("in", "out")]
    return StageTimes(
        forward_s=(forward_s,) * replicas,
        backward_s=(backward_s,) * replicas,
        activations=tuple(message(a, b) for a, b in zip(here, behind, strict=False)),
        gradients=tuple(message(b, a) for a, b in zip(here, behind, strict=False)),
        bucket_s=(0.0,) * replicas,
        ring_loads_s=dict.fromkeys(ways, ring_s) if ring_s else {},
        ring_s=0.0,
        update_s=(0.0,) * replicas,
    )


def uniform(
    stages: int, forward_s: float, backward_s: float, message_s: float = 0.0, *, eager: bool = True
) -> list[StageTimes]:
    """A pipeline of equal stages."""
    last = stages - 1
    return [
        stage(forward_s, backward_s, None if n == last else message_s, eager=eager, number=n)
        for n in range(stages)
    ]


def plan(stages: list[list[Any]], **changes: Any) -> dict[str, Any]:
    """A plan's file: every stage is the list of its replicas, each (kind, GPUs)."""
    per_stage = LAYERS // len(stages)
    layers = [list(range(n * per_stage, (n + 1) * per_stage)) for n in range(len(stages))]
    groups = [[[[[kind, gpus, "a"]], gpus] for kind, gpus in stage] for stage in stages]
    pipeline = {
        "num_stages": len(stages),
        "layers_per_stage": layers,
        "tmp_per_stage": groups,
        "dp": [len(stage) for stage in stages],
    }
    table = {
        "pipeline_list": [pipeline],
        "mbs": 2,
        "gbs": 16,
        "real": 1.0,
        "red_grads": 0.1,
        "max_mem": 5 * 10**9,
        "N": sum(len(stage) for stage in stages),
    }
    return {**table, **changes}


def write_costs(folder: Path, kinds: tuple[str, ...] = ("A", "B")) -> None:
    """Profiles, models.json and rates: 10 ms a layer and sample, 2 MB of activations a sample."""
    for kind in kinds:
        for micro in (1, 2, 4):
            for degree in (1, 2):
                path = folder / f"profiles/TINY-1/{kind}/mbs{micro}_tmp{degree}.json"
                write(path, _profile(micro, degree))
    layer = {"params_floats": MEGA, "params_bytes": 4 * MEGA, "act_mem_bytes": 8 * MEGA}
    sizes = {str(degree): {str(n): layer for n in range(LAYERS)} for degree in (1, 2)}
    write(folder / "models.json", {"TINY-1": sizes})
    # 1 GB/s and 10 GB/s at every size, for any number of GPUs.
    rates = {
        where: {kind: {"1": [[0.0, 0.0, rate], rate * 1e9]} for kind in kinds}
        for where, rate in (("inter", 1.0), ("intra", 10.0))
    }
    write(folder / "network/network_coeffs_all_homo.json", rates)


def _profile(micro: int, degree: int) -> dict[str, Any]:
    return {
        "model": {
            "model_name": "TINY-1",
            "num_layers": LAYERS,
            "parameters": {
                "parameters_per_layer_bytes": [4 * MEGA * degree] * LAYERS,
                "activation_parameters_bytes": [2 * MEGA * micro] * LAYERS,
            },
        },
        "execution_time": {
            "layer_compute_total_ms": [10.0 * micro / degree] * LAYERS,
            "optimizer_time_ms": 4.0,
        },
    }


def write(path: Path, table: Any) -> None:
    """Write JSON, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
