"""How updates of `examples/federated` travel: their bytes, and what is left of them."""

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from federated.coordinator import Flight
from federated.durations import BATCHES, FACTOR, drawn, draws
from federated.learning import learn
from federated.masks import Masks
from federated.networks import build, parameter_shapes
from federated.options import HALVED, OF_ANY_MODEL, Options
from federated.planning import download_bytes, upload_bytes, wire
from federated.synthetic import Synthetic, recover
from federated.uploads import codec_of
from torch import Tensor, nn

from tests.examples.test_federated_learning import Reference, learnt, prepared


def vector(options: Options, seed: int) -> Tensor:
    count = sum(int(np.prod(shape)) for shape in parameter_shapes(options.model, options.data))
    return 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def sent(upload: str, **changes: object) -> tuple[Tensor, Tensor]:
    """An update, and what arrives of it. Its message has the bytes that the plan says."""
    options = Options(upload=upload, **changes)  # type: ignore[arg-type]
    codec = codec_of(options, build(options.model, options.data), seed=4)
    start, delta = vector(options, 0), vector(options, 1)
    message = codec.encode(delta, start, number=7)
    assert message.dtype == torch.uint8
    assert len(message) == upload_bytes(options)
    arrived = codec.decode(message, start, number=7)
    assert (arrived.shape, arrived.dtype) == (delta.shape, delta.dtype)
    return delta, arrived


@pytest.mark.parametrize("upload", [*OF_ANY_MODEL, "synthetic"])
@pytest.mark.parametrize("model", ["linear", "mlp", "cnn"])
def test_messages_are_as_large_as_planned(upload: str, model: str) -> None:
    sent(upload, model=model, synthetic_samples=3)


def test_plain_values_arrive() -> None:
    delta, arrived = sent("full")
    assert torch.equal(arrived, delta)
    delta, arrived = sent("fp16")
    torch.testing.assert_close(arrived, delta, rtol=1e-3, atol=1e-6)


def test_the_largest_values_arrive_and_no_others() -> None:
    delta, arrived = sent("top-k", upload_share=0.2)
    kept = arrived != 0
    assert torch.equal(arrived[kept], delta[kept])
    assert delta[kept].abs().min() >= delta[~kept].abs().max()


def test_the_mean_of_random_masks_is_the_update() -> None:
    options = Options(upload="random-mask", upload_share=0.25, model="linear")
    codec = codec_of(options, nn.Identity(), seed=0)
    delta = vector(options, 1)
    mean = sum(codec.decode(codec.encode(delta, delta, n), delta, n) for n in range(3000)) / 3000
    assert isinstance(mean, Tensor)
    assert (mean - delta).abs().max() < 5 * delta.abs().max() * (3 / 3000) ** 0.5


def test_signs_arrive_with_the_mean_size_of_each_parameter() -> None:
    delta, arrived = sent("sign")
    assert torch.equal(arrived >= 0, delta >= 0)
    sizes = [int(np.prod(shape)) for shape in parameter_shapes("mlp", "digits")]
    for found, part in zip(arrived.split(sizes), delta.split(sizes), strict=True):
        torch.testing.assert_close(found.abs(), part.abs().mean().expand(len(part)))


def test_a_matrix_of_low_rank_arrives_whole() -> None:
    options = Options(upload="low-rank", upload_rank=2, model="linear")
    codec = codec_of(options, nn.Identity(), seed=0)
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(10, 2, generator=generator), torch.randn(2, 64, generator=generator)
    delta = torch.cat([(left @ right).flatten(), torch.ones(10)])
    arrived = codec.decode(codec.encode(delta, delta, 1), delta, 1)
    torch.testing.assert_close(arrived, delta, rtol=1e-4, atol=1e-4)


def test_a_clients_own_samples_recover_its_update() -> None:
    """FedSynth with S = D_k, as many steps as the client does, and its learning rate."""
    options = Options(clients=20, model="linear", batch_size=36, learning_rate=0.3)
    _, parts = prepared(options)
    start = parts.learner.server.snapshot()
    update = parts.trainer.update(start, client=3, number=5)
    images, labels = parts.trainer.own(3)
    assert len(labels) == 72
    order = torch.from_numpy(draws(0, BATCHES, 5).permutation(72))
    images, labels = images[order], nn.functional.one_hot(labels[order], 10).double()
    rates = torch.full((2,), 0.3, dtype=torch.float64)
    whole = recover(build("linear", "digits").double(), start, images, labels, rates)
    torch.testing.assert_close(whole, update.delta, rtol=1e-10, atol=1e-12)


def test_fitting_makes_synthetic_images_say_more() -> None:
    options = Options(upload="synthetic", model="linear", synthetic_samples=4)
    _, parts = prepared(options, clients=20)
    start = parts.learner.server.snapshot()
    delta = parts.trainer.update(start, 3, 5).delta
    codec = Synthetic(build("linear", "digits").double(), options, seed=0)
    likeness = []
    for codec.iterations in (0, 10, 60):
        arrived = codec.decode(codec.encode(delta, start, 5), start, 5)
        likeness.append(torch.cosine_similarity(arrived, delta, dim=0).item())
    assert abs(likeness[0]) < 0.3
    assert likeness[0] < likeness[1] < likeness[2]
    assert likeness[2] > 0.7


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn"])
def test_one_factor_of_every_adapter_is_sent(model: str) -> None:
    """In float64: r values for every column, or for every row, of every linear layer."""
    shapes = {"mlp": [(32, 64), (10, 32)]}.get(model, [(10, 64)])
    job, parts = prepared(model=model, upload=HALVED, upload_rank=3, concurrency=1, buffer_size=2)
    start, sizes = parts.learner.server.snapshot(), list[int]()
    for flight in (Flight(number, 0, 0) for number in range(12)):
        update = parts.trainer.update(start, flight.client, flight.number)
        sizes.append(len(parts.learner.message(flight, update, start)))
    of_a, of_b = (8 * 3 * sum(shape[i] for shape in shapes) for i in (1, 0))
    assert set(sizes) == {of_a, of_b}
    *_, last = islice(learn(job, parts, wire(job)), 6)
    assert last["uploaded_bytes"] == last["downloaded_bytes"] == sum(sizes) / 2  # planned: float32
    assert upload_bytes(job.options) == download_bytes(job.options) == (of_a + of_b) / 4


class Adapter(nn.Module):
    """W x + s B A x + b of 64 pixels and 10 classes, with r = 2."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.linear = partial(nn.functional.linear, weight=weight, bias=bias)
        self.a, self.b = nn.Parameter(torch.empty(2, 64)), nn.Parameter(torch.empty(10, 2))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return self.linear(x) + 3.0 / 8 * (x @ self.a.T @ self.b.T)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_factors_are_the_means_of_those_who_sent_them(share: float) -> None:
    """FedRand in rounds. With rho = 1 nobody ever sends B."""
    changes: Any = {"upload": HALVED, "upload_rank": 2, "adapter_share": share, "adapter_scale": 3}
    changes |= {"example_weight": "linear", "divide_by": "weights", "size_spread": 0.7}
    changes |= {"scheme": "fedavg", "concurrency": 4}
    reference = Reference(**changes)
    parts, first = reference.parts, reference.weights
    reference.network = Adapter(*parts.trainer.flat.network.base.parameters())  # type: ignore
    weights, kept, is_a = first, dict[int, Tensor](), torch.arange(2 * (64 + 10)) < 2 * 64
    for _ in range(6):
        total, count = torch.zeros(2, len(first), dtype=torch.float64)
        for flight in parts.learner.coordinator.start():
            sent = is_a if drawn(0, FACTOR, flight.number) < share else ~is_a
            own = kept.get(flight.client, first)
            begin = torch.where(sent, weights, own)
            model = reference.trained(begin, flight.client, flight.number)
            kept[flight.client] = torch.where(sent, own, model)
            samples = len(parts.trainer.own(flight.client)[1])
            total += samples * sent * model
            count += samples * sent
            parts.learner.coordinator.arrived(flight.number)
        weights = torch.where(count > 0, total / count, weights)
    torch.testing.assert_close(learnt(**changes), weights)
    assert weights[~is_a].any() == (share < 1)


def test_masks_hide_every_update_and_cancel_in_the_sum() -> None:
    masks, deltas = Masks(goal=4, seed=0), [vector(Options(), seed) for seed in range(4)]
    messages = [masks.hide(delta, 8 + i) for i, delta in enumerate(deltas)]
    for message, delta in zip(messages, deltas, strict=True):
        words = message.numpy().view(np.int32).astype(np.float64)
        assert len(message) == 4 * len(delta)
        assert abs(np.corrcoef(words, delta.numpy())[0, 1]) < 0.1
        assert words.std() > 2**30  # even over all words
    for i in (2, 0, 3, 1):
        masks.add(messages[i], 8 + i)
    total = masks.total(8, deltas[0].double())
    torch.testing.assert_close(
        total, torch.stack(deltas).double().sum(0), rtol=0, atol=4 * 2**-21 + 1e-7
    )


def test_a_masked_job_learns_as_an_open_one_up_to_rounding() -> None:
    same: Any = {"concurrency": 6, "buffer_size": 3, "clients": 20, "least_s": 1.0}
    found = [learnt(8, masked=masked, **same) for masked in (False, True)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    assert not torch.equal(found[0], found[1])
