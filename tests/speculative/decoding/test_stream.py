"""A stream gives the tokens of the whole, and leaves nothing behind between its steps."""

import gc
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from speculative.decoding.decode import generate, stream
from speculative.decoding.generation import Statistics
from systems.schema import InputError
from tests.speculative import models

OPTIONS: dict[str, Any] = {"max_new_tokens": 15, "gamma": 3, "seed": 5, "end_token_ids": [2]}


def pair(kind: str = "llama") -> list[Any]:
    return [models.make(kind, seed=seed) for seed in (1, 2)]


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("do_sample", [True, False])
def test_the_steps_together_are_the_whole(kind: str, do_sample: bool) -> None:
    target, draft = pair(kind)
    given = models.inputs(kind, 4)
    whole = generate(target, draft, given, do_sample=do_sample, **OPTIONS)
    steps = stream(target, draft, given, do_sample=do_sample, **OPTIONS)
    joined: list[list[int]] = [[] for _ in range(4)]
    for new in steps:
        assert any(new)
        assert all(len(tokens) <= OPTIONS["gamma"] + 1 for tokens in new)
        joined = [a + b for a, b in zip(joined, new, strict=True)]
        assert steps.generation.tokens == joined
    assert joined == whole.tokens
    found, expected = steps.generation.record, whole.record
    assert found.tested_by_position == expected.tested_by_position
    assert found.new_tokens == sum(map(len, joined))
    assert found.target_steps <= found.new_tokens <= found.target_steps + found.accepted


def test_statistics_add_up_place_by_place() -> None:
    short, long = Statistics(), Statistics()
    short.count(new=1, proposed=1, accepted=0)
    long.count(new=2, proposed=3, accepted=3)  # the second accepted token ended the text
    both = short + long
    assert (both.new_tokens, both.target_steps, both.proposed) == (3, 2, 4)
    assert both.tested_by_position == [2, 1, 0]
    assert both.accepted_by_position == [1, 1, 0]
    assert both.acceptance_rate_by_position == [0.5, 1, None]
    assert both.acceptance_rate == 2 / 3


def test_modes_are_changed_only_while_it_runs() -> None:
    target, draft = pair()
    target.train()
    steps = stream(target, draft, models.inputs("llama", 2), **OPTIONS)
    assert target.training
    next(steps)
    assert not target.training
    assert not torch.is_inference_mode_enabled()
    steps.close()
    assert target.training
    assert list(steps) == []


def test_a_loop_that_is_left_leaves_the_modes_as_they_were() -> None:
    """At once, and not when Python next looks for circles of objects."""
    target, draft = (models.make("llama", seed=seed).train() for seed in (1, 2))
    given = models.inputs("llama", 2)
    gc.disable()
    try:
        for _ in stream(target, draft, given, max_new_tokens=9):
            break
        assert target.training
        assert draft.training
    finally:
        gc.enable()


class Broken:
    """A streamer whose output is gone when the first new tokens come."""

    puts = 0

    def put(self, tokens: Any) -> None:
        self.puts += 1
        if self.puts > 1:
            raise OSError("gone")

    def end(self) -> None:
        """Nothing is left to do."""


def test_a_streamer_that_raises_leaves_the_modes_as_they_were() -> None:
    target = models.make("llama", seed=1).train()
    with pytest.raises(OSError, match="gone") as kept:  # with its frames, as a notebook keeps them
        generate(target, None, models.inputs("llama", 1), streamer=Broken())
    assert kept.traceback
    assert target.training


def test_all_is_checked_before_it_runs() -> None:
    target, draft = pair()
    with pytest.raises(InputError, match="gamma 0: give 1 or more"):
        stream(target, draft, models.inputs("llama", 2), gamma=0)


class Streamer:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.values.append("end")


def test_a_streamer_gets_the_prompt_and_every_step() -> None:
    target, draft = pair()
    prompt = torch.tensor([[1, 4, 3]])
    streamer = Streamer()
    done = generate(target, draft, {"input_ids": prompt}, streamer=streamer, **OPTIONS)
    first, *steps, last = streamer.values
    assert (first, last) == (prompt.tolist(), "end")
    assert [token for step in steps for token in step] == done.tokens[0]
    assert len(steps) == done.record.target_steps


def test_the_text_streamer_of_transformers() -> None:
    from transformers import TextIteratorStreamer

    from speculative.tasks.pairs import summary_tokenizer

    tokenizer = summary_tokenizer(["say it again and again"])
    target, draft = pair()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    done = generate(target, draft, {"input_ids": torch.tensor([[1]])}, streamer=streamer, **OPTIONS)
    assert "".join(streamer) == tokenizer.decode(done.tokens[0])


def test_streamers_that_cannot_be_used() -> None:
    target, draft = pair()
    with pytest.raises(InputError, match=r"streamer: takes one sequence, there are 2; .*stream"):
        generate(target, draft, models.inputs("llama", 2), streamer=Streamer())
    with pytest.raises(InputError, match="streamer 'mine': give an object with put and end"):
        generate(target, draft, models.inputs("llama", 1), streamer="mine")
