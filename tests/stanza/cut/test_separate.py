"""Both parts together are the network: the same bits, the same parameters, nothing twice."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stanza.cut.separate import Parts, separate
from stanza.models import ARCHITECTURES, build_model
from stanza.models.dry_run import SAMPLES
from systems.schema import InputError

SHAPE = (2, 8, 8)


class Features(nn.Module):
    """Where the small networks below begin: images to 4 x 4 x 4 values a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(F.relu(self.conv(x)))
        return out


class Network(Features):
    """With a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)


class Deep(Network):
    """With another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(4, 4, kernel_size=3, padding=1)


class ViewOfSize(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        out: Tensor = self.fc(x.view(x.size(0), -1))
        return out


class ViewOfAllSizes(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        samples, channels, _, _ = x.shape
        out: Tensor = self.fc(x.view(samples, channels * 16))
        return out


class Sizes(Network):
    """A pooled vector for every sample, and one of the ways to write its head."""

    def __init__(self, head: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 10), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc, F.adaptive_avg_pool2d(self.features(x), 1))


def _unpacked(fc: nn.Module, x: Tensor) -> Tensor:
    samples, channels, _, _ = x.size()
    out: Tensor = fc(x.view(samples, channels))
    return out


def _two_unpacked(fc: nn.Module, x: Tensor) -> Tensor:
    samples, channels = x.shape[:2]
    out: Tensor = fc(x.view(samples, channels))
    return out


HEADS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "unpacked": _unpacked,
    "two unpacked": _two_unpacked,
    "slice": lambda fc, x: fc(x.reshape(x.shape[0:2][0], x.shape[-3:][0])),
    "size in the FC part": lambda fc, x: fc(x.flatten(1)) / x.size(1),
    "power": lambda fc, x: fc(x.flatten(1)) * x.size(1) ** -0.5,
    "keyword": lambda fc, x: fc(x.view(size=(-1, x.size(dim=1)))),
    "tensors of sizes": lambda fc, x: (
        fc((x + torch.arange(x.size(0)).view(-1, 1, 1, 1)).flatten(1)) + torch.arange(x.size(1) + 6)
    ),
    "batch in the FC part": lambda fc, x: fc(x.flatten(1)) / x.size(0) / x.transpose(0, 1).size(1),
}


class BatchSizeOfTheInput(Network):
    def forward(self, x: Tensor) -> Tensor:
        samples = x.size(0)
        x = self.features(x)
        out: Tensor = self.fc(x.view(samples, -1))
        return out


class BatchSizeInBothParts(Deep):
    def forward(self, x: Tensor) -> Tensor:
        samples = x.size()[0]
        x = self.conv2(self.features(x).view(samples, 4, 4, 4))
        out: Tensor = self.fc(x.view(samples, -1))
        return out


class ShapeOfTheInput(Network):
    def forward(self, x: Tensor) -> Tensor:
        samples, _, _, _ = x.shape
        out: Tensor = self.fc(self.features(x).view(samples, -1))
        return out


class Flattened(Network):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.flatten(self.features(x), 1))
        return out


class Residual(Deep):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.relu(self.conv2(x) + x)
        out: Tensor = self.fc(x.flatten(1))
        return out + out.relu()


class Functional(nn.Module):
    """No layer is a module; the parameters are the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.weight = nn.Parameter(torch.randn(10, 64))
        self.bias = nn.Parameter(torch.randn(10))
        self.offset: Tensor
        self.register_buffer("offset", torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.conv2d(x, self.kernel, padding=1), 2)
        return F.linear(x.reshape(-1, 64), self.weight, self.bias) + self.offset


class TwoHeads(Deep):
    """Both heads read the convolutional part, at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        early = self.early(x.flatten(1))
        return self.fc(self.conv2(x).flatten(1)), early


class AuxiliaryHead(TwoHeads):
    """The early head exists in training only, as Inception's."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.features(x)
        early = self.early(F.dropout(x.flatten(1), training=self.training))
        logits: Tensor = self.fc(self.conv2(x).flatten(1))
        return (logits, early) if self.training else logits


class Normalised(Network):
    """Batch norm in both parts."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.BatchNorm2d(4), nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.before(self.conv(x)))
        out: Tensor = self.after(self.fc(x.flatten(1)))
        return out


class FunctionalDropout(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.features(x), 0.5, training=self.training)
        out: Tensor = self.fc(x.flatten(1))
        return out


class InPlaceDropout(Features):
    """As torchvision's EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).flatten(1))
        return out


class SqueezeAndExcite(Deep):
    """Linear layers inside the convolutional part."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x * self.gate(x.mean((2, 3)))[:, :, None, None]
        out: Tensor = self.fc(self.conv2(x).flatten(1))
        return out


NETWORKS: dict[type[nn.Module], int] = {
    ViewOfSize: 64,
    ViewOfAllSizes: 64,
    BatchSizeOfTheInput: 64,
    BatchSizeInBothParts: 64,
    ShapeOfTheInput: 64,
    Flattened: 64,
    Residual: 64,
    Functional: 64,
    TwoHeads: 128,
    AuxiliaryHead: 128,
    Normalised: 64,
    FunctionalDropout: 64,
    InPlaceDropout: 64,
    SqueezeAndExcite: 64,
}
"""Small networks, and the values that cross their cut for one sample."""


def evaluation(model: nn.Module, parts: Parts) -> None:
    for module in (model, parts.conv, parts.fc):
        module.eval()


@torch.no_grad()
def assert_same_bits(model: nn.Module, parts: Parts, images: Tensor) -> None:
    expected = model(images)
    activations = parts.conv(images)
    outputs = parts.fc(activations)
    assert activations.shape[0] == len(images)
    pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (expected, outputs)), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def by_identity(module: nn.Module) -> set[int]:
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


# The architectures


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("alexnet", (256, 6, 6)),  # 9,216 values
        ("vgg16", (512, 7, 7)),  # 25,088
        ("resnet50", (2048, 1, 1)),
        pytest.param("resnet152", (2048, 1, 1), marks=pytest.mark.slow),
        ("inception-v3", (2816,)),  # 2,048 and 768 of the auxiliary head
        ("digits-cnn", (64, 4, 4)),  # 1,024
    ],
)
def test_what_crosses_the_cut_of_the_architectures(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build_model(name)
        parts = separate(model, ARCHITECTURES[name].image_shape)
        images = torch.empty(2, *ARCHITECTURES[name].image_shape)
    assert parts.cut_shape == shape
    assert parts.cut_values == torch.Size(shape).numel()
    assert parts.conv(images).shape == (2, *shape)
    assert not by_identity(parts.conv) & by_identity(parts.fc)
    assert by_identity(parts.conv) | by_identity(parts.fc) == by_identity(model)


@pytest.mark.parametrize("name", ["alexnet", "digits-cnn", "inception-v3"])
def test_the_parts_of_an_architecture_give_its_very_bits(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, classes=10)
    shape = ARCHITECTURES[name].image_shape
    parts = separate(model, shape)
    evaluation(model, parts)
    assert_same_bits(model, parts, torch.randn(1, *shape))


# Small networks


@pytest.mark.parametrize("head", HEADS)
def test_no_size_brings_its_tensor_across_the_cut(head: str) -> None:
    torch.manual_seed(0)
    model = Sizes(HEADS[head])
    parts = separate(model, SHAPE)
    assert parts.cut_shape == (4, 1, 1)
    evaluation(model, parts)
    for samples in (1, 3, SAMPLES):
        assert_same_bits(model, parts, torch.randn(samples, *SHAPE))


def test_both_parts_read_a_constant() -> None:
    torch.manual_seed(0)
    model = Temperature()
    parts = separate(model, SHAPE)
    assert parts.cut_shape == (4, 4, 4)
    assert parts.conv.temperature is parts.fc.temperature is model.temperature
    evaluation(model, parts)
    assert_same_bits(model, parts, torch.randn(3, *SHAPE))


def test_splits_in_inference_mode_as_well() -> None:
    with torch.inference_mode():
        assert separate(InPlaceDropout(), SHAPE).cut_shape == (64,)


def test_a_size_that_both_parts_read_is_a_number() -> None:
    class Side(Deep):
        def forward(self, x: Tensor) -> Tensor:
            x = self.features(x)
            side = x.size(2)
            x = self.conv2(x.view(-1, 4, side, side))
            out: Tensor = self.fc(x.view(-1, 4 * side * side))
            return out

    torch.manual_seed(0)
    model = Side()
    parts = separate(model, SHAPE)
    assert parts.cut_shape == (4, 4, 4)
    evaluation(model, parts)
    assert_same_bits(model, parts, torch.randn(3, *SHAPE))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_parts_give_the_networks_very_bits(network: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = network()
    parts = separate(model, SHAPE)
    evaluation(model, parts)
    assert_same_bits(model, parts, torch.randn(3, *SHAPE))
    assert_same_bits(model, parts, torch.randn(1, *SHAPE))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_parts_give_the_networks_gradients(network: type[nn.Module]) -> None:
    """In training mode, over a cut that no graph crosses, as between two processes."""
    torch.manual_seed(0)
    model = network()
    parts = separate(model, SHAPE)
    assert parts.cut_values == NETWORKS[network]
    images = torch.randn(3, *SHAPE)

    def loss(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        heads = (outputs,) if isinstance(outputs, Tensor) else outputs
        return torch.stack([head.square().sum() for head in heads]).sum()

    torch.manual_seed(1)
    expected = torch.autograd.grad(loss(model(images)), list(model.parameters()))
    torch.manual_seed(1)  # the same dropout mask
    activations = parts.conv(images)
    assert activations.shape == (3, *parts.cut_shape)
    received = activations.detach().requires_grad_()
    loss(parts.fc(received)).backward()
    activations.backward(received.grad)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_every_parameter_is_the_networks_own_and_in_one_part(
    network: Callable[[], nn.Module],
) -> None:
    model = network()
    parts = separate(model, SHAPE)
    assert not by_identity(parts.conv) & by_identity(parts.fc)
    assert by_identity(parts.conv) | by_identity(parts.fc) == by_identity(model)


@pytest.mark.parametrize("network", [AuxiliaryHead, FunctionalDropout])
def test_parts_follow_their_mode_where_the_graphs_differ(network: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = network()
    parts = separate(model, SHAPE)
    images = torch.randn(4, *SHAPE)

    def outputs() -> tuple[Tensor, ...]:
        found = parts.fc(parts.conv(images))
        return (found,) if isinstance(found, Tensor) else found

    in_training = outputs()
    assert not torch.equal(in_training[-1], outputs()[-1])  # another dropout mask
    evaluation(model, parts)
    assert torch.equal(outputs()[0], outputs()[0])
    assert_same_bits(model, parts, images)
    for part in (parts.conv, parts.fc):
        part.train()
    assert len(outputs()) == len(in_training)


@pytest.mark.parametrize("network", [Normalised, FunctionalDropout])
@pytest.mark.parametrize("training", [True, False])
def test_modes_are_as_they_were(network: Callable[[], nn.Module], training: bool) -> None:
    model = network().train(training)
    model.get_submodule("conv").train(not training)
    before = [module.training for module in model.modules()]
    separate(model, SHAPE)
    assert [module.training for module in model.modules()] == before


def test_the_functional_dropout_of_a_frozen_part_stays_off() -> None:
    model = nn.Sequential(FunctionalDropout(), nn.Linear(10, 10)).train()
    model[0].eval()
    parts, images = separate(model, SHAPE), torch.randn(3, *SHAPE)
    assert parts.conv.training
    assert parts.fc.training
    assert torch.equal(parts.fc(parts.conv(images)), model(images))


def test_splitting_leaves_state_alone() -> None:
    model = Normalised()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    separate(model, SHAPE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# Networks that cannot be separated


class NoLinear(Features):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.conv(x))
        return out


class NoConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


class DataDependent(Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if x.sum() > 0:
            x = -x
        out: Tensor = self.fc(x.flatten(1))
        return out


class SharedModule(Network):
    """One scale on both sides of the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale(self.fc(self.scale(self.features(x)).flatten(1)))
        return out


class SharedParameter(Network):
    """One bare parameter on both sides of the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc((self.features(x) * self.scale).flatten(1)) * self.scale
        return out


class Temperature(Network):
    """A constant on both sides of the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature: Tensor
        self.register_buffer("temperature", torch.full((), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        temperature = self.temperature
        out: Tensor = self.fc(self.features(x / temperature).flatten(1)) * temperature
        return out


class Counter(Temperature):
    """A buffer that changes, on both sides of the cut."""

    def forward(self, x: Tensor) -> Tensor:
        self.temperature.view(1).add_(1)
        return super().forward(x)


class StatisticsOfTheOtherPart(Normalised):
    """The head reads what a batch norm counts."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.before.running_mean.mean()  # type: ignore[union-attr]


class TiedWeights(Network):
    """The head reads a convolution's weights."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(self.features(x).flatten(1))
        return F.linear(hidden[:, :9], self.conv.weight.view(8, 9))


class TiedMemory(Network):
    """The head's scale is a part of what the convolutional part adds, in memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(4, 1, 1))
        self.scale = nn.Parameter(self.offset.data[1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc((self.features(x) + self.offset).flatten(1)) * self.scale[0, 0]
        return out


class OneStorage(Network):
    """Both parts have a parameter in one storage, as optimizers that flatten them arrange it."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(14)
        self.offset = nn.Parameter(flat[:4].view(4, 1, 1))
        self.scale = nn.Parameter(flat[4:])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc((self.features(x) + self.offset).flatten(1)) * self.scale
        return out


class FcReadsImages(Network):
    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.features(x).flatten(1))
        return out + self.whole(x.flatten(1))


class FcReadsANumber(Deep):
    """A number that both parts read, and that depends on the batch without being its size."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        values = x.size(0) * 64
        x = self.conv2(x.view(values // 16, 16).view(-1, 4, 4, 4))
        out: Tensor = self.fc(x.flatten(1)) / values
        return out


class FcReadsAMean(Network):
    """A mean over the batch has as many rows as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, SAMPLES, kernel_size=3, padding=1)
        self.fc = nn.Linear(16 * SAMPLES, SAMPLES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        out: Tensor = self.fc(x.flatten(1)) + x.mean((0, 2)).mean(1)
        return out


class FcReadsSimilarities(Network):
    """Every sample's row is as long as the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        out: Tensor = (torch.cdist(x.flatten(1), x.flatten(1)) + 1) @ self.fc(x.flatten(1))
        return out


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (NoLinear, ["no fully connected layer", "pool (MaxPool2d)"]),
        (NoConvolution, ["no convolution", "fc (Linear)"]),
        (DataDependent, ["torch.fx cannot trace it"]),
        (SharedModule, ["share scale.weight"]),
        (SharedParameter, ["share scale"]),
        (Counter, ["share temperature"]),
        (StatisticsOfTheOtherPart, ["share before.running_mean"]),
        (TiedWeights, ["share conv.weight"]),
        (TiedMemory, ["share scale"]),
        (FcReadsImages, ["reads the images"]),
        (FcReadsANumber, ["no tensor"]),
        (FcReadsAMean, ["mean_1, which has no row for every sample"]),
        (FcReadsSimilarities, ["add, which has no row for every sample"]),
    ],
)
def test_refuses_with_one_clear_line(network: Callable[[], nn.Module], words: list[str]) -> None:
    model = network()
    with pytest.raises(InputError) as error:
        separate(model, SHAPE)
    message = str(error.value)
    assert message.startswith(f"{type(model).__name__} cannot be separated: ")
    assert message.endswith("train it with ddp or ps")
    assert "\n" not in message
    assert all(word in message for word in words)
    assert all(module.training for module in model.modules())


def test_parts_may_have_parameters_in_one_storage() -> None:
    model = OneStorage().eval()
    assert_same_bits(model, separate(model, SHAPE), torch.randn(3, *SHAPE))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 1)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Flattened does not take images of \dx\dx\d") as error:
        separate(Flattened(), shape)
    assert "\n" not in str(error.value)


# Any network


class Random(nn.Module):
    """A chain of convolutions with skips, and heads of chained linear layers at some of them."""

    def __init__(self, body: list[str], heads: list[tuple[int, list[str]]]) -> None:
        super().__init__()
        self.body = nn.ModuleList(self.block(kind) for kind in ["convolution", *body])
        self.ends = [place % len(self.body) for place, _ in heads]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(128, 6), *(self.layer(kind) for kind in layers))
            for _, layers in heads
        )

    @staticmethod
    def block(kind: str) -> nn.Module:
        return {
            "convolution": lambda: nn.Conv2d(2, 2, kernel_size=3, padding=1),
            "norm": lambda: nn.BatchNorm2d(2),
            "relu": nn.ReLU,
            "pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
            "dropout": nn.Dropout,
            "identity": nn.Identity,
        }[kind]()

    @staticmethod
    def layer(kind: str) -> nn.Module:
        return {
            "linear": lambda: nn.Linear(6, 6),
            "norm": lambda: nn.BatchNorm1d(6),
            "relu": lambda: nn.ReLU(inplace=True),
            "dropout": lambda: nn.Dropout(inplace=True),
        }[kind]()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = []
        for number, block in enumerate(self.body):
            x = block(x) + x if number % 2 else block(x)
            values.append(x)
        pairs = zip(self.heads, self.ends, strict=True)
        outputs = [head(values[end]) for head, end in pairs]
        return (*outputs, sum(outputs, torch.zeros(())))


bodies = st.lists(
    st.sampled_from(["convolution", "norm", "relu", "pool", "dropout", "identity"]), max_size=6
)
heads = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.lists(st.sampled_from(["linear", "norm", "relu", "dropout"]), max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(bodies, heads, st.integers(1, 4))
def test_random_networks_are_the_sum_of_their_parts(
    body: list[str], ends: list[tuple[int, list[str]]], samples: int
) -> None:
    torch.manual_seed(0)
    model = Random(body, ends)
    parts = separate(model, SHAPE)
    evaluation(model, parts)
    assert_same_bits(model, parts, torch.randn(samples, *SHAPE))
    assert not by_identity(parts.conv) & by_identity(parts.fc)
    fc_layers = {id(p) for p in model.heads.parameters()}
    assert {id(p) for p in parts.fc.parameters()} == fc_layers
    assert {id(p) for p in parts.conv.parameters()} <= {id(p) for p in model.body.parameters()}
