"""Reads or makes utterances, waveforms with their words, for transcription.

`recordings:PATH` strings recordings of single spoken digits together (in the layout of the
free-spoken-digit-dataset, `{digit}_{speaker}_{index}.wav`); `espeak` lets espeak-ng say strings of
digits; `folder:PATH` reads transcribed speech in LibriSpeech's layout.
"""

import itertools
import math
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile  # type: ignore[import-untyped]
from scipy.signal import resample_poly  # type: ignore[import-untyped]

from systems.schema import InputError

RATE_HZ = 16000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FEWEST_DIGITS, MOST_DIGITS = 2, 5
"""Limits of a string of digits."""
LONGEST_GAP_S = 0.1
"""The longest pause before a digit."""
LONGEST_S = 4.0
MOST_TRIES = 100
"""How many strings may be drawn, on average, for one that is short enough."""
TEST_RECORDINGS = 5
"""Recordings with a smaller index are for testing: the data set's own split."""
VOICES = ("en", "en-us", "en+f3", "en-us+m3", "en+m7", "en-us+f4")


@dataclass(frozen=True, eq=False)
class Utterance:
    """A piece of speech, and what is said in it."""

    samples: np.ndarray
    """The waveform, float32 [N] in [-1, 1] at 16 kHz."""
    words: str


def default_data() -> str:
    """The folder of the digit recordings, below the one that TESTBED_DATA names.

    Raises:
        InputError: the variable is not set.
    """
    if "TESTBED_DATA" not in os.environ:
        raise InputError(
            "--speculative.data recordings: set TESTBED_DATA, or give recordings:PATH, espeak or "
            "folder:PATH"
        )
    return str(Path(os.environ["TESTBED_DATA"]) / "speech" / "recordings")


def read_utterances(
    data: str, split: str, count: int, seed: int = 0, *, longest_s: float = LONGEST_S
) -> list[Utterance]:
    """Read `count` utterances, or as many as a folder has.

    Args:
        data: recordings, recordings:PATH, espeak or folder:PATH.
        split: "train" or "test"; all of a folder belongs to both.
        seed: decides which strings of digits are made.
        longest_s: the longest string of digits; what a folder has is taken as it is.

    Raises:
        InputError: there is no such source, or nothing in it can be read.
    """
    kind, _, path = data.partition(":")
    if kind == "recordings":
        return _strings(Path(path or default_data()), split, count, seed, longest_s)
    if data == "espeak":
        return _spoken(split, count, seed, longest_s)
    if kind == "folder" and path:
        return _folder(Path(path), count)
    raise InputError(
        f"--speculative.data {data}: give recordings, recordings:PATH, espeak or folder:PATH "
        "for transcription"
    )


def read_audio(path: Path) -> np.ndarray:
    """A sound file as float32 [N] at 16 kHz, one channel.

    Raises:
        InputError: the file cannot be read here; FLAC and others need the package soundfile.
    """
    try:
        if path.suffix.lower() == ".wav":
            rate, samples = wavfile.read(path)
        else:
            import soundfile  # type: ignore[import-not-found]

            samples, rate = soundfile.read(path, dtype="float32")
    except ImportError:
        raise InputError(f"{path}: needs a package: pip install soundfile") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: no sound file: {error}") from None
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 2:
        samples = samples.mean(1)
    if rate != RATE_HZ:
        common = math.gcd(rate, RATE_HZ)
        samples = resample_poly(samples, RATE_HZ // common, rate // common)
    return samples.astype(np.float32)


def _strings(folder: Path, split: str, count: int, seed: int, longest_s: float) -> list[Utterance]:
    """Join recorded digits to strings, each by one speaker, with pauses between them.

    Raises:
        InputError: the folder has no recordings, or too few strings are short enough.
    """
    recordings: dict[str, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        spoken, speaker, index = path.stem.split("_")
        if (int(index) < TEST_RECORDINGS) == (split == "test"):
            recordings[speaker][int(spoken)].append(read_audio(path))
    if not recordings:
        raise InputError(f"{folder}: holds no recordings named DIGIT_SPEAKER_INDEX.wav")
    generator = np.random.default_rng((seed, split == "test"))
    speakers = sorted(recordings)
    utterances: list[Utterance] = []
    for tried in itertools.count():
        if len(utterances) == count:
            break
        if tried > MOST_TRIES * count:
            raise InputError(f"{folder}: too few strings of recordings are within {longest_s:g} s")
        of_speaker = recordings[speakers[generator.integers(len(speakers))]]
        digits = sorted(of_speaker)
        parts, words = [], []
        for _ in range(generator.integers(FEWEST_DIGITS, MOST_DIGITS + 1)):
            digit = digits[generator.integers(len(digits))]
            choices = of_speaker[digit]
            parts += [_pause(generator), choices[generator.integers(len(choices))]]
            words.append(WORDS[digit])
        samples = np.concatenate(parts)
        if len(samples) <= longest_s * RATE_HZ:
            utterances.append(Utterance(samples, " ".join(words)))
    return utterances


def _pause(generator: np.random.Generator) -> np.ndarray:
    """A pause of random length: almost silent noise, float32 [N]."""
    length = int(generator.uniform(0, LONGEST_GAP_S) * RATE_HZ)
    return generator.normal(0, 1e-4, length).astype(np.float32)


def _spoken(split: str, count: int, seed: int, longest_s: float) -> list[Utterance]:
    """Let espeak-ng say strings of digits in several voices and at several speeds.

    Raises:
        InputError: espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError("--speculative.data espeak: espeak-ng is not installed")
    generator = np.random.default_rng((seed, split == "test"))
    utterances: list[Utterance] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        while len(utterances) < count:
            length = generator.integers(FEWEST_DIGITS, MOST_DIGITS + 1)
            words = " ".join(WORDS[d] for d in generator.integers(10, size=length))
            voice = VOICES[generator.integers(len(VOICES))]
            speed = str(generator.integers(140, 240))
            command = [program, "-v", voice, "-s", speed, "-w", str(path), words]
            subprocess.run(command, check=True, capture_output=True)
            samples = read_audio(path)
            if len(samples) <= longest_s * RATE_HZ:
                utterances.append(Utterance(samples, words))
    return utterances


def _folder(folder: Path, count: int) -> list[Utterance]:
    """The first `count` utterances of a folder in LibriSpeech's layout: files `*.trans.txt` with
    lines `ID WORDS`, and beside them `ID.flac` or `ID.wav`.

    Raises:
        InputError: there are no transcripts, or a sound file is missing.
    """
    utterances: list[Utterance] = []
    for transcript in sorted(folder.rglob("*.trans.txt")):
        for line in transcript.read_text().splitlines():
            name, _, words = line.partition(" ")
            paths = [transcript.parent / f"{name}{suffix}" for suffix in (".flac", ".wav")]
            sound = next((path for path in paths if path.is_file()), None)
            if sound is None:
                raise InputError(f"{transcript}: no {paths[0].name} or {paths[1].name} beside it")
            if len(utterances) < count:
                utterances.append(Utterance(read_audio(sound), words.strip()))
    if not utterances:
        raise InputError(f"{folder}: holds no *.trans.txt with transcripts (LibriSpeech's layout)")
    return utterances
