import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile  # type: ignore[import-untyped]

from speculative.tasks.speech import LONGEST_S, RATE_HZ, WORDS, read_audio, read_utterances
from systems.schema import InputError


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Digit d is a constant of value d / 10 and half a second; indices 0 to 9, two speakers."""
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for index in range(10):
                samples = np.full(4000, digit / 10 if index < 5 else -digit / 10, np.float32)
                wavfile.write(tmp_path / f"{digit}_{speaker}_{index}.wav", 8000, samples)
    return tmp_path


def test_strings_say_their_words(recordings: Path) -> None:
    utterances = read_utterances(f"recordings:{recordings}", "test", 30)
    assert len(utterances) == 30
    for utterance in utterances:
        words = utterance.words.split()
        assert 2 <= len(words) <= 5
        assert utterance.samples.dtype == np.float32
        assert len(utterance.samples) <= LONGEST_S * RATE_HZ
        heard = np.round(utterance.samples * 10).astype(int)
        for word in words:  # recordings below index 5 are positive: those of the test split
            digit = WORDS.index(word)
            assert digit == 0 or (heard == digit).sum() > 0.4 * RATE_HZ
        assert heard.min() >= -1  # ringing of the resampling aside


def test_equal_seeds_give_equal_strings(recordings: Path) -> None:
    first, again, other = (
        [u.words for u in read_utterances(f"recordings:{recordings}", "train", 20, seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_audio_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    wavfile.write(path, 32000, np.full((3200, 2), 16384, np.int16))
    samples = read_audio(path)
    assert samples.shape == (1600,)
    np.testing.assert_allclose(samples[200:-200], 0.5, atol=0.01)


def test_folder(tmp_path: Path) -> None:
    chapter = tmp_path / "84" / "121"
    chapter.mkdir(parents=True)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 YES\n")
    with pytest.raises(InputError, match=r"no 84-121-0000\.flac"):
        read_utterances(f"folder:{tmp_path}", "test", 5)
    for name in ("84-121-0000", "84-121-0001"):
        wavfile.write(chapter / f"{name}.wav", RATE_HZ, np.zeros(160, np.int16))
    assert [u.words for u in read_utterances(f"folder:{tmp_path}", "test", 5)] == [
        "GO DO YOU HEAR",
        "YES",
    ]
    assert len(read_utterances(f"folder:{tmp_path}", "test", 1)) == 1


def test_bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    for data, message in {
        "recordings": "set TESTBED_DATA",
        f"recordings:{tmp_path}": "holds no recordings",
        f"folder:{tmp_path}": "LibriSpeech",
        "folder:": "give recordings",
        "radio": "give recordings",
    }.items():
        with pytest.raises(InputError, match=message):
            read_utterances(data, "test", 1)
    (tmp_path / "0_ann_0.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"0_ann_0\.wav: no sound file"):
        read_utterances(f"recordings:{tmp_path}", "test", 1)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_speaks() -> None:
    (utterance,) = read_utterances("espeak", "test", 1)
    assert len(utterance.samples) > 0.2 * RATE_HZ
    assert set(utterance.words.split()) <= set(WORDS)
