"""Write torchvision_golden.json: what torchvision's models hold, for test_models.py.

Requires torchvision importable beside torch; the tests themselves do not. From the repository
root:

    python tests/stanza/make_torchvision_golden.py            # rewrites the golden file
    python tests/stanza/make_torchvision_golden.py --compare  # only compares forward outputs

The comparison gives both implementations torchvision's initial weights and prints the largest
difference between their outputs in evaluation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import nn

from stanza.models import ARCHITECTURES, build_model

GOLDEN_FILE = Path(__file__).with_name("torchvision_golden.json")

REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "alexnet": torchvision.models.alexnet,
    "vgg16": torchvision.models.vgg16,
    "resnet50": torchvision.models.resnet50,
    "resnet152": torchvision.models.resnet152,
    "inception-v3": lambda: torchvision.models.inception_v3(
        aux_logits=True, transform_input=False, init_weights=False
    ),
}


def state_lines(model: nn.Module) -> list[str]:
    """One line "name shape" per entry of the state_dict, in its order."""
    return [f"{name} {tuple(entry.shape)}" for name, entry in model.state_dict().items()]


def golden(reference: Callable[[], nn.Module]) -> dict[str, Any]:
    """The number of parameters and a digest of the names and shapes of one model."""
    with torch.device("meta"):
        model = reference()
    lines = state_lines(model)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "entries": len(lines),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        # For the reader of a failure; the digest covers all.
        "first": lines[:3],
        "last": lines[-3:],
    }


@torch.no_grad()
def largest_difference(name: str, samples: int = 2) -> tuple[float, float]:
    """The largest difference between both outputs, and the largest output, in magnitude."""
    torch.manual_seed(0)
    reference = REFERENCES[name]().eval()
    model = build_model(name)
    model.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(samples, *ARCHITECTURES[name].image_shape)
    expected = reference(images)
    difference = model.eval()(images) - expected
    return difference.abs().max().item(), expected.abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--compare", action="store_true", help="compare forward outputs instead")
    if parser.parse_args().compare:
        for name in REFERENCES:
            difference, magnitude = largest_difference(name)
            print(f"{name}: largest difference {difference:.3g}, largest output {magnitude:.3g}")
        return
    models = {name: golden(reference) for name, reference in REFERENCES.items()}
    content = {"torchvision": version("torchvision"), "models": models}
    GOLDEN_FILE.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {GOLDEN_FILE}")


if __name__ == "__main__":
    main()
