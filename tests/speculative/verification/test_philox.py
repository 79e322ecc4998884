"""The generator against the authors' known answers, and the shape of its uniforms."""

import pytest
import torch

from speculative.verification import philox

KNOWN = [  # Random123 1.14, kat_vectors: counter and key, words
    (" ".join(["00000000"] * 6), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (" ".join(["ffffffff"] * 6), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("given", "words"), KNOWN)
def test_blocks_are_those_of_the_authors(given: str, words: str) -> None:
    a, b, c, d, left, right = (torch.tensor(int(word, 16)) for word in given.split())
    found = [f"{int(word):08x}" for word in philox.blocks((a, b, c, d), (left, right))]
    assert found == words.split()


def test_uniforms_lie_inside_the_interval_and_are_uniform() -> None:
    seeds, numbers, positions = philox.requests(4, 2**64 - 1, 9, torch.device("cpu"))
    drawn = philox.uniforms(seeds, numbers, positions, philox.NEXT, 50_001)
    assert drawn.shape == (4, 50_001)
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1
    counts = torch.histc(drawn, 64, 0, 1)
    expected = drawn.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 120  # 63 degrees of freedom


def test_streams_positions_and_requests_do_not_meet() -> None:
    seeds, numbers, positions = philox.requests(64, 3, 0, torch.device("cpu"))
    drawn = [
        philox.uniforms(seeds, numbers, positions + shift, stream, 8)
        for stream in (philox.ACCEPT, philox.NEXT, philox.DRAFT)
        for shift in (0, 1)
    ]
    numbers_drawn = torch.stack(drawn).flatten()
    assert len(numbers_drawn.unique()) > 0.999 * len(numbers_drawn)


def test_a_seed_of_64_bits_is_kept_whole() -> None:
    for seed in (0, 7, 2**32, 2**63, 2**64 - 1, -1):
        assert philox.signed(seed) % 2**64 == seed % 2**64
    low, high = (philox.verification_uniforms(1, 1, 4, seed, 0) for seed in (5, 5 + 2**32))
    assert not torch.equal(low, high)
