"""A profile of a busy machine is doubted, by the load before and by the spread of its times."""

from dataclasses import replace

import pytest

from systems.profiles.profile import LayerProfile, ModelProfile
from systems.profiles.steadiness import doubts, warn_if_doubtful

STEADY = ModelProfile(
    name="net",
    device="cpu",
    batch_size=2,
    source="made up",
    layers=(
        LayerProfile(
            name="fc",
            operation="",
            forward_s=1.0,
            backward_s=2.0,
            activation_bytes=0,
            parameter_bytes=0,
        ),
    ),
    threads=2,
    low=0.9,
    high=1.2,
)


@pytest.mark.parametrize(
    ("changes", "load", "words"),
    [
        ({}, 0.4, []),
        ({}, 1.0, ["load average 1.0, threads of the profile 2, cores 2"]),
        ({"threads": 1}, 1.0, []),
        ({"threads": None}, 9.0, []),  # on a GPU
        ({"low": 0.5}, 0.0, ["is 2.4 times the lower one (steady: up to 1.5)"]),
        ({"low": None, "high": None}, 0.0, []),  # an older file
        ({"low": 0.5}, 9.0, ["load average 9.0", "is 2.4 times"]),
    ],
)
def test_a_profile_is_doubted(changes: dict[str, float], load: float, words: list[str]) -> None:
    found = doubts(replace(STEADY, **changes), load, cores=2)  # type: ignore[arg-type]
    assert len(found) == len(words)
    assert all(word in reason for word, reason in zip(words, found, strict=True))


def test_a_doubt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_doubtful(replace(STEADY, low=0.1), load=0.0)
    warn_if_doubtful(replace(STEADY, threads=1), load=0.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the times of this profile are doubtful: the upper quartile")
