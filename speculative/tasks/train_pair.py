"""Trains a small target and a smaller draft for a task, where no checkpoints can be downloaded.

python -m launch train-pair transcribe --out runs/pairs/transcribe
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from speculative.options import Task
from speculative.tasks import cmudict, docstrings, pairs, speech, training_checkpoint
from speculative.tasks.pairs import RECIPES, Recipe, Role, Size
from speculative.tasks.training_checkpoint import Position
from systems import disk
from systems.schema import InputError

BATCH_SIZE = 32
WARM_UP_STEPS = 60
FEATURES_AT_ONCE = 64
"""How many waveforms become spectrograms together."""
CHECKPOINT_S = 20.0
"""Seconds from one checkpoint and progress report to the next."""
IGNORED = -100
"""The label that transformers leave out of the loss."""

Batches = Callable[[Tensor], dict[str, Tensor]]
"""Makes a model's arguments from the numbers of samples, int64 [B]."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the training of a model has come."""

    role: Role
    step: int
    steps: int
    loss: float
    """Cross-entropy per token (nats), averaged over the steps since the last report."""
    elapsed_s: float
    """Seconds of training, those before an interruption included."""


@dataclass(frozen=True)
class Material:
    """The samples and parts that both models of a pair are trained with."""

    samples: int
    """How many samples there are."""
    batch: Batches
    make: Callable[[Role], Any]
    """Makes the untrained model."""
    processors: tuple[Any, ...]
    """What prepares a model's inputs; it is saved beside the model."""


def train_pair(
    task: Task,
    folder: Path,
    *,
    size: Size = "small",
    data: str | None = None,
    steps: Mapping[Role, int] | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[Progress]:
    """Train target and draft into FOLDER/target and FOLDER/draft, and report how it goes.

    An interrupted training goes on from its last checkpoint, a finished one is left as it is.

    Args:
        size: chooses models, data and steps from `speculative.tasks.pairs.RECIPES`.
        data: a source for `docstrings.read_pairs`, `speech.read_utterances` or
            `cmudict.read_entries`; None: the recipe's.
        steps: how many steps target and draft are trained; None: the recipe's.
        seed: decides the initial weights and the order of samples.
        device: where to train; None: the CPU.

    Raises:
        InputError: there is no such task or data, or there is less than one step.
    """
    if task not in get_args(Task):
        raise InputError(f"train-pair {task}: give {' or '.join(get_args(Task))}")
    recipe = RECIPES[size][task]
    recipe = replace(recipe, steps=steps or recipe.steps, data=data or recipe.data)
    for role, count in recipe.steps.items():
        if count < 1:
            raise InputError(f"--{role}-steps {count}: give 1 or more")
    missing = [role for role in get_args(Role) if not (folder / role / "config.json").is_file()]
    if not missing:
        return
    torch.manual_seed(seed)
    material = _material(task, recipe, seed)
    for role in missing:
        torch.manual_seed(seed)
        model = material.make(role).to(device or torch.device("cpu"))
        checkpoint = folder / f"{role}.checkpoint"
        with disk.writing(checkpoint):
            folder.mkdir(parents=True, exist_ok=True)
        yield from _train(
            model, material, role, recipe.steps[role], recipe.learning_rate, checkpoint, seed
        )
        pairs.save(folder / role, model.eval(), *material.processors)
        checkpoint.unlink(missing_ok=True)


def _train(
    model: Any,
    material: Material,
    role: Role,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    seed: int,
) -> Iterator[Progress]:
    """Train one model with AdamW, and write checkpoints.

    What a step does depends on its number alone, so that training can go on from a checkpoint.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    first, before_s = 0, 0.0
    if checkpoint.is_file():
        position = training_checkpoint.read_position(checkpoint)
        if position.steps != steps:
            raise InputError(
                f"{checkpoint}: was begun with {position.steps} steps, not {steps}; "
                f"give --{role}-steps {position.steps} or remove it"
            )
        training_checkpoint.restore(checkpoint, model, optimizer)
        first, before_s = position.step, position.elapsed_s
    device = next(model.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    started = reported = time.monotonic()
    losses: list[Tensor] = []
    model.train()
    for step in range(first, steps):
        batch = {
            name: x.to(device) for name, x in material.batch(_chosen(material, step, seed)).items()
        }
        with half:
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _learning_rate_share(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        now = time.monotonic()
        if now - reported > CHECKPOINT_S or step + 1 == steps:
            elapsed_s = before_s + now - started
            position = Position(step=step + 1, steps=steps, elapsed_s=elapsed_s)
            training_checkpoint.save(checkpoint, position, model, optimizer)
            mean = torch.stack(losses).mean().item()
            yield Progress(role=role, step=step + 1, steps=steps, loss=mean, elapsed_s=elapsed_s)
            reported, losses = now, []


def _learning_rate_share(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a linear warm-up, then a cosine down to 2 %."""
    warm_up = min(WARM_UP_STEPS, max(steps // 10, 1))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _chosen(material: Material, step: int, seed: int) -> Tensor:
    """The numbers of the samples of a step, int64 [BATCH_SIZE]."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(material.samples, (BATCH_SIZE,), generator=generator)


def _material(task: Task, recipe: Recipe, seed: int) -> Material:
    """Prepare the material that pairs for a task are trained with."""
    if task == "transcribe":
        return _transcripts(recipe, seed)
    return _summaries(recipe) if task == "summarize" else _pronunciations(recipe)


def _summaries(recipe: Recipe) -> Material:
    """Prepare the material for summarization."""
    samples = docstrings.read_pairs(recipe.data, "train", recipe.samples)
    tokenizer = pairs.summary_tokenizer([text for p in samples for text in (p.document, p.summary)])
    inputs = tokenizer([p.document for p in samples], truncation=True)["input_ids"]
    labels = tokenizer(
        [p.summary for p in samples], truncation=True, max_length=pairs.MOST_SUMMARY_TOKENS
    )["input_ids"]
    return _of_t5(recipe, tokenizer, inputs, labels)


def _pronunciations(recipe: Recipe) -> Material:
    """Prepare the material for pronouncing."""
    entries = cmudict.read_entries(recipe.data, "train", recipe.samples)
    tokenizer = pairs.spelling_tokenizer([text for e in entries for text in (e.letters, e.phones)])
    inputs = tokenizer([entry.letters for entry in entries])["input_ids"]
    labels = tokenizer([entry.phones for entry in entries])["input_ids"]
    return _of_t5(recipe, tokenizer, inputs, labels)


def _of_t5(
    recipe: Recipe, tokenizer: Any, inputs: list[list[int]], labels: list[list[int]]
) -> Material:
    """Prepare the material of T5s: the tokens that they read, and those that they give."""

    def batch(numbers: Tensor) -> dict[str, Tensor]:
        ids = _padded([inputs[i] for i in numbers], tokenizer.pad_token_id)
        return {
            "input_ids": ids,
            "attention_mask": (ids != tokenizer.pad_token_id).long(),
            "labels": _padded([labels[i] for i in numbers], IGNORED),
        }

    def make(role: Role) -> Any:
        return pairs.t5(recipe.shapes[role], len(tokenizer))

    return Material(len(inputs), batch, make, (tokenizer,))


def _transcripts(recipe: Recipe, seed: int) -> Material:
    """Prepare the material for transcription."""
    utterances = speech.read_utterances(
        recipe.data, "train", recipe.samples, seed, longest_s=recipe.heard_s
    )
    tokenizer = pairs.word_tokenizer([word for u in utterances for word in u.words.split()])
    extractor = pairs.feature_extractor(recipe.heard_s)
    waves = [utterance.samples for utterance in utterances]
    features = torch.cat(
        [
            extractor(
                waves[i : i + FEATURES_AT_ONCE], sampling_rate=speech.RATE_HZ, return_tensors="pt"
            ).input_features
            for i in range(0, len(waves), FEATURES_AT_ONCE)
        ]
    )
    # The prompt of transcription is the start token and this one, which the model must have seen.
    no_timestamps, end = tokenizer.convert_tokens_to_ids(["<|notimestamps|>", "<|endoftext|>"])
    labels = [[no_timestamps, *tokenizer(u.words)["input_ids"], end] for u in utterances]

    def batch(numbers: Tensor) -> dict[str, Tensor]:
        chosen = _padded([labels[i] for i in numbers], IGNORED)
        return {"input_features": features[numbers], "labels": chosen}

    def make(role: Role) -> Any:
        return pairs.whisper(recipe.shapes[role], tokenizer, recipe.heard_s)

    return Material(len(utterances), batch, make, (tokenizer, extractor))


def _padded(rows: list[list[int]], padding: int) -> Tensor:
    """Pad rows of tokens on the right, to int64 [B, T]."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=padding
    )
