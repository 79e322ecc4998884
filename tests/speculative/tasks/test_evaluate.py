"""Train pairs for a few steps, evaluate them, from the public functions alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile  # type: ignore[import-untyped]

pytest.importorskip("transformers")
pytest.importorskip("jiwer")
pytest.importorskip("rouge_score")

from speculative.decoding.decode import generate
from speculative.options import Options, Task
from speculative.tasks import train_pair as training
from speculative.tasks.evaluate import evaluate
from speculative.tasks.pairs import RECIPES, SUMMARY_VOCABULARY, save, summary_tokenizer
from speculative.tasks.summarize import Summaries
from speculative.tasks.train_pair import train_pair
from systems.schema import InputError
from tests.pickles import pickled, saved_by_torch

STEPS = {"target": 3, "draft": 2}
SCORES: dict[Task, list[str]] = {
    "summarize": ["rouge_1", "rouge_2", "rouge_l"],
    "transcribe": ["word_error_rate"],
    "pronounce": ["phone_error_rate"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, str]:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for digit in range(10):
        for index in range(7):
            samples = generator.integers(-9999, 9999, 3000).astype(np.int16)
            wavfile.write(folder / f"{digit}_ann_{index}.wav", 8000, samples)
    rows = [{"document": f"say {i} twice", "summary": f"{i} {i} it is"} for i in range(200)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"{a}{b}{c} {a.upper()} {c.upper()}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    (folder / "words.dict").write_text("\n".join(words))
    return {
        "transcribe": f"recordings:{folder}",
        "summarize": f"jsonl:{folder}/pairs.jsonl",
        "pronounce": f"dict:{folder}/words.dict",
    }


@pytest.mark.parametrize("task", ["summarize", "transcribe", "pronounce"])
def test_train_and_evaluate(
    task: Task, data: dict[Task, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(RECIPES["tiny"][task], samples=40, steps=STEPS)  # type: ignore[arg-type]
    monkeypatch.setitem(RECIPES["tiny"], task, few)
    reports = list(train_pair(task, tmp_path, size="tiny", data=data[task]))
    assert [(r.role, r.step) for r in reports] == [("target", 3), ("draft", 2)]
    assert list(train_pair(task, tmp_path, data=data[task])) == []  # there already

    options = Options(
        task=task,
        target=f"{tmp_path}/target",
        draft=f"{tmp_path}/draft",
        data=data[task],
        samples=5,
        batch_size=2,
        max_new_tokens=6,
    )
    metrics = evaluate(options, seed=3)
    assert metrics["samples"] == 5 or task == "pronounce"
    assert 0 < metrics["acceptance_rate"] <= 1
    assert metrics["tokens_per_target_step"] >= 1
    assert metrics["target_parameters"] > 3 * metrics["draft_parameters"]
    phases = sum(metrics[f"{name}_s"] for name in ("draft", "target", "verify", "rest"))
    assert metrics["total_s"] == pytest.approx(phases)
    for name in SCORES[task]:
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    json.dumps(metrics)

    other = evaluate(dataclasses.replace(options, batch_size=5), seed=3)
    assert other["examples"] == metrics["examples"]
    near = dataclasses.replace(options, method="calibrated", calibration_samples=6)
    fitted = evaluate(near, seed=3)["calibration"]
    assert set(fitted) == {"intercept", "target_slope", "draft_slope"}
    assert metrics["calibration"] is None
    assert metrics["acceptance_rate_by_position"][0] > 0
    greedy = dataclasses.replace(options, temperature=0.0)
    examples = evaluate(greedy, seed=3)["examples"]
    assert evaluate(dataclasses.replace(greedy, method="none"))["examples"] == examples
    looked_up = evaluate(dataclasses.replace(greedy, draft="lookup", adaptive=True), seed=3)
    assert looked_up["examples"] == examples
    assert looked_up["draft_parameters"] is None
    adaptive = evaluate(dataclasses.replace(greedy, adaptive=True), seed=3)
    assert adaptive["examples"] == examples
    coupled = dataclasses.replace(options, method="coupled", top_p=0.9, min_p=0.01)
    examples = evaluate(coupled, seed=3)["examples"]
    assert evaluate(dataclasses.replace(coupled, draft="lookup"), seed=3)["examples"] == examples
    block = evaluate(dataclasses.replace(options, method="block"), seed=3)
    assert 0 < block["acceptance_rate"] <= 1
    alone = evaluate(dataclasses.replace(options, method="none", draft="nowhere"), seed=3)
    assert alone["acceptance_rate"] is None
    assert alone["draft_s"] < alone["target_s"]


def test_interrupted_training_ends_like_an_uninterrupted_one(
    data: dict[Task, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        from transformers import AutoModelForSeq2SeqLM

        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder / "target")
        return dict(model.state_dict())

    arguments: dict[str, Any] = {"data": data["summarize"], "steps": {"target": 4, "draft": 1}}
    list(train_pair("summarize", tmp_path / "whole", **arguments))
    for report in train_pair("summarize", tmp_path / "parts", **arguments):
        if report.step == 2:
            break
    wrong: Any = {"target": 9, "draft": 1}
    with pytest.raises(InputError, match="was begun with 4 steps, not 9"):
        list(train_pair("summarize", tmp_path / "parts", data=data["summarize"], steps=wrong))
    resumed = list(train_pair("summarize", tmp_path / "parts", **arguments))
    assert [r.step for r in resumed] == [3, 4, 1]
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)


def test_a_checkpoint_of_a_training_runs_no_code(data: dict[Task, str], tmp_path: Path) -> None:
    for make in (pickled, saved_by_torch):  # torch.save wrote ours, too, in an older version
        (tmp_path / "target.checkpoint").write_bytes(make(tmp_path / "trace"))
        with pytest.raises(
            InputError, match=r"target\.checkpoint: is not a safetensors file.*; remove"
        ):
            list(train_pair("summarize", tmp_path, size="tiny", data=data["summarize"]))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "--speculative.gamma 0: give 1"),
        ({"max_new_tokens": 0}, "--speculative.max-new-tokens 0"),
        ({"alpha": 2.0, "beta": 1.0}, "--speculative.alpha 2: give less"),
        ({"temperature": -1.0}, "--speculative.temperature -1: give more"),
        ({"temperature": 0.0, "method": "sigmoid"}, "--speculative.method sigmoid: greedy"),
        ({"top_k": 1, "method": "calibrated"}, "--speculative.method calibrated: greedy"),
        ({"top_k": 1, "method": "block"}, "--speculative.method block: greedy"),
        ({"temperature": 0.0, "method": "coupled"}, "--speculative.method coupled: greedy"),
        ({"draft": "lookup", "method": "sigmoid"}, "--speculative.method sigmoid: compares"),
        ({"min_p": 1.5}, "--speculative.min-p 1.5: give 0 to 1"),
        ({"top_p": 2.0}, "--speculative.top-p 2: give more"),
        ({"top_k": -1}, "--speculative.top-k -1: give 1"),
        ({"caution": 0.0}, "--speculative.caution 0: give more"),
        ({"caution": float("nan")}, "--speculative.caution nan: give more"),
        ({"caution": float("inf")}, "--speculative.caution inf: give more"),
        ({"temperature": float("nan")}, "--speculative.temperature nan: give more"),
        ({"beta": float("nan")}, "--speculative.beta nan"),
        ({"calibration_samples": 0}, "--speculative.calibration-samples 0"),
        ({"prompt": "Say"}, "must contain {document}"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_prompts_leave_room_for_the_output(data: dict[Task, str], tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=SUMMARY_VOCABULARY, n_embd=8, n_layer=1, n_head=1, n_positions=16
    )
    model = GPT2LMHeadModel(config)
    save(tmp_path, model, summary_tokenizer(["say it again"]))
    options = Options(
        target=str(tmp_path),
        data=data["summarize"],
        prompt="say it again " * 20 + "{document}",
        max_new_tokens=10,
        gamma=8,
    )
    inputs = Summaries(options, model).inputs([0])
    assert inputs["input_ids"].shape == (1, 6)
    assert generate(model, model, inputs, max_new_tokens=10, gamma=8).tokens
    with pytest.raises(InputError, match=r"max-new-tokens 16: leaves no room .* 16 positions"):
        Summaries(dataclasses.replace(options, max_new_tokens=16), model)


def test_missing_models_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target .*: no model there; .* train-pair summarize"):
        evaluate(Options(target=str(tmp_path)))


def test_bad_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give summarize or transcribe"):
        list(train_pair("translate", tmp_path))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--draft-steps 0: give 1"):
        list(train_pair("summarize", tmp_path, steps={"target": 1, "draft": 0}))
