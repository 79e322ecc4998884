"""Shaped clusters for tests, without the measurement that comes before a run.

python -m tests.shaped FOLDER [steps]      # a shaped run that leaves its record in FOLDER
"""

import sys
from pathlib import Path

from launch.commands.shape import prepare_shaped, run_shaped
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.clusters.shape import Shape
from systems.job import Job
from systems.network.pairs import Pair, PairCalibration
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.runs.shaped import Measured

DIGITS = Options(
    model="digits-cnn",
    data="digits",
    fc_workers=1,
    global_batch_size=48,
    steps=20,
    warm_up_steps=1,
    learning_rate=0.05,
    momentum=0.9,
)


def shape(ranks: int, share: float | None = None, rate_bits_per_s: float = 1e9) -> Shape:
    """Nodes that are alike."""
    node = Node(
        name="node",
        count=ranks,
        devices=(Device(kind="part of a core", core_share=share),),
        link=Link(bandwidth_bits_per_s=rate_bits_per_s),
    )
    return Shape(cluster=Cluster(name="test", source="a test", nodes=(node,)))


def measured(of: Shape) -> Measured:
    """What might have been measured of a cluster on which digits are trained."""
    ranks = len(of.links)
    kinds = {device.kind for device in of.devices}
    return Measured(
        calibration=PairCalibration(
            rate_bits_per_s=of.rates_bits_per_s,
            pairs=tuple(
                Pair(ranks=(one, other), ratio=1.02)
                for other in range(ranks)
                for one in range(other)
            ),
            latency_s=1e-4,
        ),
        speeds_per_s=(1000.0,) * ranks,
        profiles={kind: _profile(kind) for kind in kinds},
    )


def _profile(kind: str) -> ModelProfile:
    layers = [
        LayerProfile(
            name=name,
            operation=operation,
            forward_s=0.001,
            backward_s=0.002,
            activation_bytes=size,
            parameter_bytes=parameters,
            inputs=(before,) if before else (),
        )
        for before, name, operation, size, parameters in (
            ("", "conv", "Conv2d(1, 8)", 98_304, 320),
            ("conv", "fc", "Linear(in_features=512, out_features=10)", 1920, 20_520),
        )
    ]
    return ModelProfile(
        name="digits-cnn", device=kind, batch_size=48, source="a test", layers=tuple(layers)
    )


def job(options: Options, out: Path, ranks: int = 2) -> Job:
    """A job whose trained model is kept."""
    return STANZA.job(options, world_size=ranks, checkpoint_every=options.steps, out=str(out))


def main() -> None:
    """Run one that lasts for the given steps."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    on = shape(3, share=0.3, rate_bits_per_s=1e8)
    options = Options(**{**vars(DIGITS), "steps": steps})
    ready = prepare_shaped(job(options, folder, 3), on, measured(on))
    code = run_shaped([ready])
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
