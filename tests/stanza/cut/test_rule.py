"""The rule of the cut, on small graphs, and on profiles held against the real networks."""

import pytest
import torch

from stanza.cut.rule import CutNode, Operation, cut_profile, find_cut
from stanza.cut.separate import separate
from stanza.models import ARCHITECTURES, build_model
from stanza.planner.plan import load_profile, shipped_profiles
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

KINDS: dict[str, Operation] = {
    "c": "convolution",
    "l": "linear",
    "w": "pointwise",
    "p": "pooling",
    "r": "reshape",
    "o": "other",
    "f": "other",
}
"""What the first letter of a node stands for; `i` and `f` are the images and other features."""


def graph(text: str) -> list[CutNode]:
    """Nodes from "c1 r2:c1 l3:r2": kind and number, and after a colon what it reads."""
    nodes = []
    for word in text.split():
        name, _, inputs = word.partition(":")
        reads = tuple(inputs.split(",")) if inputs else ()
        kind = KINDS.get(name[0], "other")
        nodes.append(CutNode(name, f"{name}!", kind, reads, features=name[0] in "cwif"))
    return nodes


@pytest.mark.parametrize(
    ("text", "fc", "crossing"),
    [
        ("c1 l2:c1", "l2", "c1"),
        ("c1 o2:c1 r3:o2 r4:r3 l5:r4 o6:l5 l7:o6", "r3 r4 l5 o6 l7", "o2"),
        # A reshape that the convolutional part reads too stays there.
        ("c1 r2:c1 c3:r2 l4:r2 o5:c3,l4", "l4 o5", "r2 c3"),
        # A reshape with other operations between it and the layer stays as well.
        ("c1 r2:c1 o3:r2 l4:o3", "l4", "o3"),
        # Two heads, as Inception's auxiliary classifier.
        ("c1 r2:c1 l3:r2 c4:c1 r5:c4 l6:r5 o7:l3,l6", "r2 l3 r5 l6 o7", "c1 c4"),
        # What depends on both parts is in the FC part.
        ("c1 l2:c1 o3:c1 o4:l2,o3", "l2 o4", "c1 o3"),
        # Squeeze-and-excitation before a convolution, and after the last one.
        ("i0 c1:i0 l2:c1 f3:c1,l2 c4:f3 l5:c4 f6:c4,l5 o7:f6 l8:o7", "l8", "o7"),
        # A 1 x 1 convolution that is written as a Linear.
        ("i0 c1:i0 w2:c1 o3:w2 l4:o3", "l4", "o3"),
        # It is the classifier where there is no other.
        ("i0 c1:i0 w2:c1 o3:w2", "w2 o3", "c1"),
        # A grid that fully connected layers compute, and that is gated by itself.
        ("i0 c1:i0 l2:c1 f3:l2 l4:f3 f5:f3,l4", "l2 f3 l4 f5", "c1"),
        # In a profile, a pooling reads features.
        ("c1 l2:c1 o3:l2 p4:o3 r5:p4 l6:r5", "r5 l6", "p4"),
    ],
)
def test_the_fc_part_is_all_that_depends_on_a_layer_of_the_classifier(
    text: str, fc: str, crossing: str
) -> None:
    cut = find_cut(graph(text), "net")
    assert cut.fc == set(fc.split())
    assert cut.crossing == tuple(crossing.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c1 o2:c1", ["no fully connected layer", "o2!"]),
        ("l1 o2:l1", ["no convolution", "l1!"]),
        ("c1 l2:c1 o3:l2 c4:o3", ["c4!", "after", "l2!"]),
        ("i0 c1:i0 l2:c1 f3:c1,l2 o4:f3", ["only inside", "f3!", "after", "l2!"]),
    ],
)
def test_networks_that_cannot_be_separated(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        find_cut(graph(text), "net")
    message = str(error.value)
    assert message.startswith("net cannot be separated")
    assert "train it with ddp or ps" in message
    assert "\n" not in message
    assert all(word in message for word in words)


def test_what_the_network_returns_crosses_the_cut() -> None:
    nodes = graph("c1 o2:c1 r3:c1 r4:c1 l5:r4")
    assert find_cut(nodes, "net", outputs={"l5", "o2"}).crossing == ("c1", "o2")
    returned_view = find_cut(nodes, "net", outputs={"l5", "r3"})
    assert (returned_view.crossing, returned_view.fc) == (("c1",), {"r3", "r4", "l5"})


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_profile_is_cut_as_the_network_itself(name: str) -> None:
    profile = load_profile(name)
    cut = cut_profile(profile)
    layers = {layer.name: layer for layer in profile.layers}
    with torch.device("meta"):
        parts = separate(build_model(name), ARCHITECTURES[name].image_shape)
    crossing = sum(layers[layer].activation_bytes for layer in cut.crossing)
    assert crossing == parts.cut_values * 4 * profile.batch_size
    fc_bytes = sum(layers[layer].parameter_bytes for layer in cut.fc)
    assert fc_bytes == sum(p.nbytes for p in parts.fc.parameters())
    conv_bytes = profile.parameter_bytes - fc_bytes
    assert conv_bytes == sum(p.nbytes for p in parts.conv.parameters())


def test_there_is_a_profile_of_each_family() -> None:
    assert set(shipped_profiles()) == {"alexnet", "vgg16", "resnet50", "inception-v3"}


def test_a_profile_that_cannot_be_separated_is_named() -> None:
    layer = LayerProfile(
        name="node1",
        operation="ReLU()",
        forward_s=1,
        backward_s=1,
        activation_bytes=4,
        parameter_bytes=0,
    )
    profile = ModelProfile(name="mine", device="x", batch_size=1, source="x", layers=(layer,))
    with pytest.raises(InputError, match=r"^mine cannot .* it ends with node1 \(ReLU\(\)\)"):
        cut_profile(profile)
