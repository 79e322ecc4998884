"""Codecs against plain Python; error feedback, which loses nothing; the bytes that are sent."""

from collections.abc import Callable
from math import ceil

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stanza.exchanges.casts import BFloat16, Float16
from stanza.exchanges.codec import Codec, ErrorFeedback, Packer
from stanza.exchanges.names import BUILT_IN, compression_of
from stanza.exchanges.one_bit import OneBit
from stanza.exchanges.random_k import RandomK
from stanza.exchanges.top_k import TopK
from systems.schema import InputError
from tests.stanza.exchanges import own

CODECS: dict[str, Callable[[], Codec]] = {
    "fp16": Float16,
    "bf16": BFloat16,
    "top-k": TopK,
    "random-k": RandomK,
    "1-bit": OneBit,
}


@pytest.mark.parametrize("name", CODECS)
@given(
    size=st.integers(1, 600),
    steps=st.integers(1, 8),
    magnitude=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_what_was_sent_and_what_is_left_is_the_sum_of_all_gradients(
    name: str, size: int, steps: int, magnitude: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    gradients = torch.randn(steps, size, generator=random) * magnitude
    codec = ErrorFeedback(CODECS[name]())
    sent = torch.zeros(size, dtype=torch.float64)
    for gradient in gradients:
        sent += codec.decode(codec.encode(gradient), size)
    assert codec.left is not None
    total = gradients.double().sum(0)
    torch.testing.assert_close(sent + codec.left, total, rtol=0, atol=1e-5 * magnitude * steps)


def test_without_feedback_the_sum_is_lost() -> None:
    """The property above can fail."""
    codec, vector = TopK(density=0.5), torch.tensor([3.0, 1.0])
    sent = sum(codec.decode(codec.encode(vector), 2) for _ in range(4))
    assert isinstance(sent, Tensor)
    assert sent.tolist() == [12.0, 0.0]


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=80, unique_by=abs),
    st.sampled_from([0.01, 0.1, 0.5, 1.0]),
)
def test_top_k_keeps_the_largest(values: list[float], density: float) -> None:
    codec, vector = TopK(density), torch.tensor(values)
    largest = sorted(values, key=abs, reverse=True)[: ceil(density * len(values))]
    expected = [value if value in largest else 0.0 for value in values]
    assert codec.decode(codec.encode(vector), len(values)).tolist() == expected


@given(st.integers(1, 80), st.sampled_from([0.01, 0.5, 1.0]))
def test_random_k_keeps_some_and_draws_others_every_time(size: int, density: float) -> None:
    codec, vector, kept = RandomK(density), torch.arange(1.0, size + 1), set[int]()
    for _ in range(4):
        found = RandomK(density).decode(codec.encode(vector), size)
        kept |= set(found.nonzero().flatten().tolist())
        assert 1 <= (found != 0).sum() <= ceil(density * size)
        assert torch.equal(found[found != 0], vector[found != 0])
    assert len(kept) > 1 or size < 8


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=80), st.integers(1, 40))
def test_one_bit_keeps_the_sign_and_the_mean_magnitude_of_a_block(
    values: list[float], block: int
) -> None:
    codec, expected = OneBit(block), list[float]()
    for begin in range(0, len(values), block):
        part = values[begin : begin + block]
        scale = sum(map(abs, part)) / len(part)
        expected += [scale if value >= 0 else -scale for value in part]
    found = codec.decode(codec.encode(torch.tensor(values)), len(values))
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_bytes_are_those_of_the_formula(name: str) -> None:
    """In a vector of whole blocks and a whole number of values to send nothing is rounded up."""
    values = torch.randn(25_600)
    packer = Packer(CODECS[name], values, feedback=True)
    packed, known = packer.pack(values), compression_of(name, ())
    assert known is not None
    assert packed.nbytes == packer.nbytes == packer.buffer().nbytes
    number = 8 if name == "random-k" else 0  # from which places are drawn; not in the formula
    sent = packer.nbytes - number
    assert sent / values.nbytes == pytest.approx(known.factor, rel=1e-12)


def test_the_formula_knows_the_arguments() -> None:
    for name, argument, codec in (
        ("top-k", "density=0.25", TopK(0.25)),
        ("1-bit", "block=32", OneBit(32)),
    ):
        known = compression_of(name, (argument,))
        assert known is not None
        sent = sum(message.nbytes for message in codec.encode(torch.randn(3200)))
        assert sent / (4 * 3200) == pytest.approx(known.factor)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [1, 7, 300])
def test_packing_changes_nothing(name: str, size: int) -> None:
    torch.manual_seed(size)
    values, codec = torch.randn(size), CODECS[name]()
    packer = Packer(CODECS[name], values, feedback=False)
    torch.testing.assert_close(
        packer.unpack(packer.pack(values)), codec.decode(codec.encode(values), size), rtol=0, atol=0
    )


def test_a_packer_feeds_back_where_the_codec_asks_for_it() -> None:
    values = torch.tensor([3.0, 2.0])

    def second(codec: Callable[[], Codec], feedback: bool) -> list[float]:
        packer = Packer(codec, values, feedback=feedback)
        packer.pack(values)
        return packer.unpack(packer.pack(values)).tolist()

    def half() -> Codec:
        return TopK(0.5)

    assert second(half, True) == [0.0, 4.0]
    assert second(half, False) == [3.0, 0.0]
    assert second(own.Identity, True) == [3.0, 2.0]


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (
            own.Single,
            "--stanza.exchange: encode returns no list of tensors; give one, even for one",
        ),
        (own.Short, "--stanza.exchange: decode returns [1] for 2 values; give [2]"),
        (
            own.Unsteady,
            "--stanza.exchange: encode returns float32 [1], and of zeros float32 [0]; let shapes "
            "and dtypes depend on the size alone",
        ),
    ],
)
def test_what_is_no_codec_is_refused(codec: Callable[[], Codec], message: str) -> None:
    values = torch.tensor([0.0, 1.0])
    with pytest.raises(InputError) as error:
        Packer(codec, values, feedback=True).pack(values)
    assert str(error.value) == message


def test_every_codec_with_a_name_is_tested() -> None:
    assert {name for name, built_in in BUILT_IN.items() if "ps" in built_in.paths} == set(CODECS)
