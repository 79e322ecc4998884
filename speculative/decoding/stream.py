"""The decoding loop, as an iterator that gives the new tokens of every step.

In a step (`speculative.decoding.step`) the draft proposes gamma tokens for every sequence, one
forward pass of the target scores them all, and verification decides how many stay and which token
follows. Then both models forget what was rejected, and sequences that have ended leave the batch.
"""

import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from speculative.decoding.even_rows import Reader
from speculative.decoding.generation import Generation, Phases, Record
from speculative.decoding.inputs import check_padding
from speculative.decoding.pace import Pace
from speculative.decoding.processors import until_stopped
from speculative.decoding.reading import make_reader, reading
from speculative.decoding.step import Settings, Step
from speculative.verification.status import LogitsError, explain
from systems.modes import evaluating


class Stream:
    """New tokens, step by step: an iterator of a list for every sequence, empty for those that have
    ended.

    Nothing is computed before the first step is asked for. From then until the last step, or until
    the iterator is closed or forgotten, the models are in evaluation mode.

    Args:
        inputs: what the models read, of both models' names and dtypes.
        prompts: the tokens after which each sequence starts.
        paddings: the padding that each prompt has in the batch, which only processors and criteria
            see.
        seeds: a seed for each sequence.
        sources: the tokens that the encoder reads for each sequence; empty lists without one.
    """

    def __init__(
        self,
        settings: Settings,
        target: Any,
        draft: Any | None,
        inputs: dict[str, Tensor],
        prompts: list[list[int]],
        paddings: list[list[int]],
        seeds: list[int],
        sources: list[list[int]],
    ) -> None:
        self.prompts = prompts
        """The tokens that the new ones follow, for every sequence."""
        self.tokens: list[list[int]] = [[] for _ in prompts]
        """The new tokens of every sequence so far."""
        self.log_probabilities: list[list[float]] | None = None
        """Those of the new tokens so far; None: they are not wanted."""
        if settings.log_probabilities:
            self.log_probabilities = [[] for _ in prompts]
        self._settings = settings
        self._target, self._draft = target, draft
        self._inputs, self._paddings, self._seeds = inputs, paddings, seeds
        self._active = list(range(len(prompts)))  # have not ended; row i of a step is _active[i]
        self._record = Record()
        self._phases = Phases(target.device)
        self._pace = Pace(settings.gamma) if settings.adaptive else None
        self._sources = sources
        # A generator that holds this object would be in a circle with it, and a stream that is
        # forgotten in the middle would leave the models in evaluation mode.
        self._steps = type(self)._run(weakref.proxy(self))

    def __iter__(self) -> Iterator[list[list[int]]]:
        return self

    def __next__(self) -> list[list[int]]:
        return next(self._steps)

    def close(self) -> None:
        """Stop here: the models get back the modes that they had."""
        self._steps.close()

    @property
    def generation(self) -> Generation:
        """The tokens so far, and what they took. On CUDA this waits for the device."""
        record = self._record + self._phases.record()
        return Generation(self.tokens, record, self.log_probabilities)

    @torch.inference_mode()  # only while a step is computed, not where its tokens are used
    def _run(self) -> Generator[list[list[int]], None, None]:
        """Take step after step until all sequences have ended."""
        models = [self._target] if self._draft is None else [self._target, self._draft]
        self._phases.mark("outside")
        with evaluating(*models):
            self._begin()
            while self._active:
                new = self._take(self._step())
                self._phases.mark("rest")
                yield new
                self._phases.mark("outside")

    def _begin(self) -> None:
        """Make the readers, which run the encoders."""
        device, gamma = self._target.device, self._settings.gamma
        inputs = {name: x.to(device) for name, x in self._inputs.items()}
        lengths = [len(prompt) for prompt in self.prompts]
        text_lengths = range(min(lengths), max(lengths) + self._settings.limit + gamma + 1)
        self._target_reader: Reader = make_reader(
            self._target, inputs, len(lengths), text_lengths=text_lengths, ahead=gamma
        )
        self._misplaced = reading(self._target, inputs).misplaced
        self._phases.mark("target")
        self._draft_reader: Reader | None = None
        if self._draft is not None:
            self._draft_reader = make_reader(
                self._draft, inputs, len(lengths), text_lengths=text_lengths, ahead=0
            )
        self._phases.mark("draft")

    def _step(self) -> Step:
        """The next step of the sequences that have not ended."""
        active, limit = self._active, self._settings.limit
        histories = [self.prompts[i] + self.tokens[i] for i in active]
        check_padding(self._target, self._misplaced, histories)
        device = self._target.device
        gamma = self._settings.gamma if self._pace is None else self._pace.gamma()
        return Step(
            settings=self._settings,
            gamma=min(gamma, limit - min(len(self.tokens[i]) for i in active)),
            target=self._target_reader,
            draft=self._draft_reader,
            histories=histories,
            texts=self._texts() if self._settings.processors else [],
            paddings=[len(self._paddings[i]) for i in active],
            sources=[self._sources[i] for i in active],
            seeds=torch.tensor([self._seeds[i] for i in active], device=device),
            offsets=torch.tensor([len(self.tokens[i]) for i in active], device=device),
            begins=not any(self.tokens[i] for i in active),
            phases=self._phases,
        )

    def _take(self, step: Step) -> list[list[int]]:
        """Let a step decide, add its tokens to the sequences, and let those that have ended leave.

        Returns:
            The new tokens of every sequence.

        Raises:
            LogitsError: the step gave a sequence no token.
        """
        rows, log_probabilities = step.decide()
        if self._pace is not None:
            self._learn(self._pace, rows)
        new = [self._new_tokens(i, row) for i, row in zip(self._active, rows, strict=True)]
        stops: list[int | None] = [None] * len(new)
        if self._settings.criteria:
            stops = until_stopped(self._settings.criteria, self._texts(), new, self._target.device)
        everyone: list[list[int]] = [[] for _ in self.tokens]
        going = []
        for row, (i, stop) in enumerate(zip(self._active, stops, strict=True)):
            everyone[i] = new[row][:stop]
            self.tokens[i] += everyone[i]
            if self.log_probabilities is not None:
                self.log_probabilities[i] += log_probabilities[row][: len(everyone[i])]
            accepted = rows[row][0]
            proposed = sum(token >= 0 for token in rows[row][3:])
            self._record.count(new=len(everyone[i]), proposed=proposed, accepted=accepted)
            if stop is None and not self._has_ended(i):
                going.append(row)
        self._leave(going)
        return everyone

    def _learn(self, pace: Pace, rows: list[list[int]]) -> None:
        """Tell the pace what the last step accepted, and the time that it took."""
        drafted = [sum(token >= 0 for token in row[3:]) for row in rows]
        pairs = list(zip(rows, drafted, strict=True))
        spent = self._phases.lap()
        pace.saw(
            len(rows[0]) - 3,
            tested=sum(min(row[0] + 1, count) for row, count in pairs),
            accepted=sum(row[0] for row in rows),
            draft_s=spent.draft_s,
            other_s=spent.target_s + spent.verify_s + spent.rest_s,
        )

    def _new_tokens(self, sequence: int, row: list[int]) -> list[int]:
        """The tokens that a step gave this sequence, up to its end token or the limit.

        Args:
            row: the sequence's row of `Step.decide`.
        """
        accepted, next_token, status, *draft_tokens = row
        length = len(self.tokens[sequence])
        if status:
            raise LogitsError(f"sequence {sequence}, token {length}: {explain(status)}")
        new = [*draft_tokens[:accepted], next_token][: self._settings.limit - length]
        first = next((n for n, token in enumerate(new) if token in self._settings.ends), len(new))
        return new[: first + 1]

    def _has_ended(self, sequence: int) -> bool:
        """Whether a sequence has reached its limit or generated an end token."""
        tokens = self.tokens[sequence]
        return len(tokens) >= self._settings.limit or tokens[-1] in self._settings.ends

    def _leave(self, going: list[int]) -> None:
        """Keep these rows of the batch only, and let both models forget their rejected tokens."""
        kept = [len(self.prompts[i]) + len(self.tokens[i]) for i in self._active]
        self._active = [self._active[row] for row in going]
        if not going:
            return
        self._target_reader = _go_back(self._target_reader, going, kept, behind=1)
        if self._draft_reader is not None:
            self._draft_reader = _go_back(self._draft_reader, going, kept, behind=2)

    def _texts(self) -> list[list[int]]:
        """The text of every row behind the padding of its prompt, as processors see it."""
        return [self._paddings[i] + self.prompts[i] + self.tokens[i] for i in self._active]


def _go_back(model: Reader, rows: Sequence[int], kept: list[int], *, behind: int) -> Reader:
    """Let a model forget the rows that have ended, and the rejected draft tokens of the others.

    Args:
        rows: the rows that go on.
        kept: the length of every row's text, those that have ended too.
        behind: how many of the last tokens the model shall not have read. That is 1 for the target,
            which has not read the next token. The draft has not read its own last token either if
            all were accepted, so it reads two again in any case, and rows stay of one width.
    """
    if len(rows) < len(kept):
        model = model.select(rows)
    read = model.lengths  # fewer, where a step had no draft
    model.rewind([min(kept[row] - behind, n) for row, n in zip(rows, read, strict=True)])
    return model
