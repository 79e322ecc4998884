"""Checkpoints by name, from a hub's cache that is made here: no network is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.io import wavfile  # type: ignore[import-untyped]

pytest.importorskip("transformers")
pytest.importorskip("jiwer")

from speculative.tasks import pairs
from speculative.tasks.checkpoint import load_model
from speculative.tasks.pairs import RECIPES, Role
from systems.schema import InputError
from tests.pickles import pickled, saved_by_torch

RUN = [sys.executable, "-m", "launch", "run", "launch/jobs/transcribe.toml"]
ROOT = Path(__file__).parents[3]


def offline(cache: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def in_cache(cache: Path, role: Role) -> str:
    """A model with random weights where the hub's client keeps what it has downloaded."""
    recipe = RECIPES["tiny"]["transcribe"]
    tokenizer = pairs.word_tokenizer(["go", "yes", "you"])
    repository = cache / f"models--someone--{role}.en"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    model = pairs.whisper(recipe.shapes[role], tokenizer, recipe.heard_s)
    extractor = pairs.feature_extractor(recipe.heard_s)
    pairs.save(repository / "snapshots" / ("0" * 40), model, tokenizer, extractor)
    return f"someone/{role}.en"


def test_models_by_name_and_a_folder_of_speech(tmp_path: Path) -> None:
    target, draft = (in_cache(tmp_path / "cache", role) for role in get_args(Role))
    speech = tmp_path / "84" / "121"
    speech.mkdir(parents=True)
    (speech / "84-121.trans.txt").write_text("84-121-0000 GO YOU\n84-121-0001 YES\n")
    for name in ("84-121-0000", "84-121-0001"):
        wavfile.write(speech / f"{name}.wav", 16000, np.zeros(8000, np.int16))
    flags = {"target": target, "draft": draft, "data": f"folder:{tmp_path}", "samples": "2"}
    words = [word for name, value in flags.items() for word in (f"--speculative.{name}", value)]
    done = subprocess.run(
        [*RUN, *words, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=offline(tmp_path / "cache"),
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "word_error_rate" in done.stdout


@pytest.mark.parametrize("make", [pickled, saved_by_torch])
def test_pairs_of_strangers_run_no_code(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    recipe, trace = RECIPES["tiny"]["summarize"], tmp_path / "trace"
    tokenizer = pairs.summary_tokenizer(["a b c"])
    pairs.save(tmp_path / "t5", pairs.t5(recipe.shapes["draft"], len(tokenizer)), tokenizer)
    (tmp_path / "t5" / "model.safetensors").unlink()
    (tmp_path / "t5" / "pytorch_model.bin").write_bytes(make(trace))
    with pytest.raises(
        InputError, match=r"--speculative\.draft .*cannot be loaded: .*safetensors"
    ) as e:
        load_model("summarize", str(tmp_path / "t5"), torch.device("cpu"), "--speculative.draft")
    assert "\n" not in str(e.value)
    (tmp_path / "t5" / "model.safetensors").write_bytes(make(trace))
    with pytest.raises(InputError, match=r"--speculative\.draft .*cannot be loaded"):
        load_model("summarize", str(tmp_path / "t5"), torch.device("cpu"), "--speculative.draft")
    assert not trace.exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trace')!r})")
    config = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"--speculative\.target .*cannot be loaded") as caught:
        load_model("summarize", str(tmp_path), torch.device("cpu"), "--speculative.target")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


def test_a_name_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    target = in_cache(tmp_path, "target")
    flags = ["--speculative.target", target, "--speculative.draft", "someone/else"]
    done = subprocess.run(
        [*RUN, *flags], capture_output=True, text=True, env=offline(tmp_path), cwd=ROOT, timeout=200
    )
    assert done.returncode == 2
    assert "--speculative.draft someone/else: cannot be loaded" in done.stderr
    assert len(done.stderr.splitlines()) == 1
