"""MovieLens 100K, read in place from the package recbole: from a small distribution of the same
format, and from the real one where it is installed."""

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from systems.data import ml_100k
from systems.schema import InputError

Rating = tuple[int, int, int, int]
"""User, film, stars, time."""


def fake_recbole(folder: Path, ratings: Iterable[Rating], header: str = ml_100k.HEADER) -> Path:
    """Lay a distribution that is called recbole into a folder; returns its file of ratings."""
    about = folder / "recbole-1.2.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
    path = folder / ml_100k.PLACE
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([header, *("\t".join(map(str, rating)) for rating in ratings), ""]))
    return path


def test_the_last_fifth_of_each_users_ratings_is_for_testing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By time, whatever the order in the file."""
    times = np.random.default_rng(0).permutation(12)
    ratings = [(2, film + 1, 1 + film % 5, 900 - int(times[film])) for film in range(12)]
    ratings += [(1, 7, 4, 10), (1, 9, 3, 5)]
    fake_recbole(tmp_path, ratings)
    monkeypatch.syspath_prepend(tmp_path)
    data = ml_100k.open_ml_100k("--data ml-100k")
    assert (len(data.train), len(data.test), data.classes) == (2 + 10, 2, 2)
    assert ml_100k.user_count("") == 2
    pairs, liked = data.train.batch(range(12))
    assert pairs[:2].tolist() == [[0, 8], [0, 6]]
    assert liked[:2].tolist() == [0, 1]
    tested, liked = data.test.batch([0, 1])
    last = sorted(ratings[:12], key=lambda rating: rating[3])[-2:]
    assert tested.tolist() == [[user - 1, film - 1] for user, film, _, _ in last]
    assert liked.tolist() == [stars >= 4 for _, _, stars, _ in last]
    assert pairs.dtype == liked.dtype == torch.int64


@pytest.mark.parametrize(
    ("ratings", "header"),
    [
        ([(944, 1, 3, 0)], ml_100k.HEADER),
        ([(1, 1683, 3, 0)], ml_100k.HEADER),
        ([(1, 1, 6, 0)], ml_100k.HEADER),
        ([(1, 1, 3, 0)], "user_id:token\titem_id:token\trating:float"),
    ],
)
def test_another_file_is_refused(
    ratings: list[Rating], header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recbole(tmp_path, ratings, header)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="no ratings of MovieLens 100K; get another recbole"):
        ml_100k.open_ml_100k("--data ml-100k")


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_recbole(tmp_path, [(1, 1, 3, 0)]).write_text(f"{ml_100k.HEADER}\n1\tx\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read: .*; install recbole again"):
        ml_100k.open_ml_100k("--data ml-100k")


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ml_100k, "distribution", nothing)
    with pytest.raises(InputError) as refused:
        ml_100k.open_ml_100k("--federated.data ml-100k")
    assert str(refused.value).startswith("--federated.data ml-100k: the ratings come with")
    assert "pip install --no-deps recbole" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(ml_100k.file() is None, reason="recbole is not installed")
def test_the_real_ratings() -> None:
    data = ml_100k.open_ml_100k("")
    assert (len(data.train), len(data.test)) == (ml_100k.TRAIN, 100_000 - ml_100k.TRAIN)
    assert ml_100k.user_count("") == ml_100k.USERS
    pairs, liked = data.train.batch(range(ml_100k.TRAIN))
    assert pairs[:, 0].max() == ml_100k.USERS - 1
    assert liked.float().mean().item() == pytest.approx(0.5727, abs=1e-4)
    of_user = np.bincount(pairs[:, 0]) + np.bincount(
        data.test.batch(range(len(data.test)))[0][:, 0]
    )
    assert of_user.min() == 20
