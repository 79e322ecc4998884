"""The names of points, and the folder that keeps them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from launch.job import load_job
from launch.sweep.points import Point, Sweep
from systems.clusters import cluster
from systems.schema import InputError

BASE = load_job(Path("launch/jobs/stanza-digits.toml"))


def point(**values: Any) -> Point:
    return Point(tier="simulated", repetition=1, values=values)


def test_names_are_readable_and_differ() -> None:
    assert point(scheme="ddp", nodes=4).name == "simulated-scheme-ddp-nodes-4-1"
    awkward = [point(data="folder:/a/b"), point(data="folder:/a_b"), point(data="x" * 300)]
    awkward += [point(data="x" * 301)]
    names = [each.name for each in awkward]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 200 for name in names)


@pytest.mark.parametrize("length", [3, 300])
def test_repetitions_have_names_of_their_own(length: int) -> None:
    names = {
        Point(tier="measured", repetition=n, values={"data": "x" * length}).name for n in range(3)
    }
    assert len(names) == 3


def test_points_are_read_back_as_they_were_asked_for(tmp_path: Path) -> None:
    sweep = Sweep(folder=tmp_path / "sweep", base=BASE)
    sweep.claim()
    asked = [
        point(nodes=2, profile=None),
        point(**{"image-shape": (1, 8, 8)}),
        point(bandwidth=1e9),
    ]
    for each in asked:
        sweep.begin(each)
    sweep.note(asked[0], "why")
    found = list(sweep.points())
    assert sorted(map(repr, found)) == sorted(map(repr, asked))
    assert [sweep.error(each) for each in asked] == ["why", "", ""]


def test_a_point_has_a_job_of_its_own(tmp_path: Path) -> None:
    sweep = Sweep(folder=tmp_path / "sweep", base=BASE)
    sweep.claim()
    asked = Point(tier="simulated", repetition=2, values={"cluster": "titan-8", "bandwidth": 1e9})
    sweep.begin(asked)
    job = sweep.job(asked)
    assert job.seed == BASE.seed + 2
    assert job.out == str(tmp_path / "sweep/records" / asked.name)
    assert "1000000000.0" in Path(job.cluster).read_text()
    assert job.name == "stanza-digits cluster=titan-8 bandwidth=1e9"


def test_clusters_of_one_file_name_are_kept_apart(tmp_path: Path) -> None:
    sweep = Sweep(folder=tmp_path / "sweep", base=BASE)
    sweep.claim()
    points = []
    for number, name in enumerate(["titan-8", "ec2-p3-10g"]):
        file = tmp_path / str(number) / "mine.toml"
        file.parent.mkdir()
        file.write_text(cluster.to_toml(cluster.load(name)))
        points.append(point(cluster=str(file), bandwidth=1e9))
        sweep.begin(points[-1])
    read = [cluster.load(sweep.job(each).cluster).name for each in points]
    assert read == ["titan-8 at 1 Gb/s", "ec2-p3-10g at 1 Gb/s"]


@pytest.mark.parametrize("varied", [True, False])
def test_a_file_that_has_changed_is_noticed(tmp_path: Path, varied: bool) -> None:
    """Points of one sweep must not be of two clusters, whether the job names it or the point."""
    file = tmp_path / "mine.toml"
    file.write_text(cluster.to_toml(cluster.load("titan-8")))
    base = BASE if varied else dataclasses.replace(BASE, cluster=str(file))
    sweep = Sweep(folder=tmp_path / "sweep", base=base)
    sweep.claim()
    each = point(cluster=str(file)) if varied else point(nodes=2)
    sweep.begin(each)
    result = sweep.record(each) / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    sweep.claim()
    file.write_text(file.read_text() + "# slower\n")
    with pytest.raises(InputError, match=r"was run before .*mine\.toml changed; give another"):
        sweep.claim()
    result.unlink()  # a point without figures is run again
    sweep.claim()


def test_a_folder_belongs_to_one_job(tmp_path: Path) -> None:
    Sweep(folder=tmp_path / "sweep", base=BASE).claim()
    Sweep(folder=tmp_path / "sweep", base=BASE).claim()
    other = load_job(Path("launch/jobs/stanza-vgg16-random.toml"))
    with pytest.raises(InputError, match="holds the points of another job, with --name"):
        Sweep(folder=tmp_path / "sweep", base=other).claim()
    (tmp_path / "thesis.txt").write_text("four years")
    with pytest.raises(InputError, match="holds files already"):
        Sweep(folder=tmp_path, base=BASE).claim()
