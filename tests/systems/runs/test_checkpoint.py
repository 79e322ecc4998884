"""Checkpoints: whole or not there, the damaged ones named and passed over, the last ones kept."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs import manifest
from systems.runs.checkpoint import ASIDE, PARTIAL, open_checkpoints, read_model
from systems.runs.manifest import FINAL, MANIFEST, find, newest, read_manifest, steps_in
from systems.runs.state import State
from systems.schema import InputError
from tests.pickles import pickled, plant, saved_by_torch
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

Adam = torch.optim.Adam


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))


def _train(
    folder: Path, steps: int, resume: str = "auto", keep: int = 2
) -> tuple[int, list[float]]:
    """A world of one: the first step, and every step's loss."""
    world = start(environment({}), ["worker"], timeout_s=30, device="cpu")
    checkpoints = open_checkpoints(
        world, folder, every=2, keep=keep, layout="1 worker", resume=resume
    )
    network = _network()
    optimizer = Adam(network.parameters())
    state = State(network, 0)
    state.add(network, optimizer)
    checkpoints.restore_model(network)
    checkpoints.restore(state)
    losses = []
    for begin, end in checkpoints.segments(steps):
        for index in range(begin, end):
            loss = network(torch.full((5, 3), index / 7) + torch.eye(5, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        checkpoints.save(end, steps, state, 5 * end)
    stop(world)
    return checkpoints.first_step, losses


def train(folder: Path, steps: int, resume: str = "auto") -> tuple[int, list[float]]:
    (result,) = run_ranks(1, _train, folder, steps, resume)
    return result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A run of 7 steps: its checkpoints and losses."""
    folder = tmp_path_factory.mktemp("whole") / manifest.FOLDER
    first, losses = train(folder, 7)
    assert first == 0
    return folder, losses


@pytest.fixture
def cut(whole: tuple[Path, list[float]], tmp_path: Path) -> Path:
    """A copy of its checkpoints, without the end."""
    folder = tmp_path / manifest.FOLDER
    shutil.copytree(whole[0], folder)
    shutil.rmtree(folder / FINAL)
    return folder


def test_the_last_ones_are_kept_and_the_end(whole: tuple[Path, list[float]]) -> None:
    names = sorted(path.name for path in whole[0].iterdir())
    assert names == [FINAL, manifest.name(4), manifest.name(6)]
    assert read_manifest(whole[0] / manifest.name(6)).samples_seen == 30
    assert set(read_model(whole[0] / FINAL)) == set(_network().state_dict())


def test_optimizer_statistics_and_random_state_are_restored(
    whole: tuple[Path, list[float]], cut: Path
) -> None:
    assert train(cut, 7) == (6, whole[1][6:])


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("rank-0.safetensors", _cut_short, r"rank-0.safetensors has [\d,]+ of [\d,]+ bytes"),
        ("rank-0.safetensors", _flip, "rank-0.safetensors is damaged"),
        ("rank-0.safetensors", Path.unlink, "rank-0.safetensors is missing"),
        (MANIFEST, _flip, f"{MANIFEST} is( missing or)? damaged"),
        (MANIFEST, Path.unlink, f"{MANIFEST} is missing or damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    name: str,
    damage: Callable[[Path], None],
    told: str,
    cut: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(cut / manifest.name(6) / name)
    found = newest(cut)
    assert found is not None
    assert found.manifest.step == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"checkpoint .*step-00000006: {told}; using the one before", line)


def test_a_run_goes_on_before_a_damaged_checkpoint_and_makes_it_again(
    whole: tuple[Path, list[float]], cut: Path
) -> None:
    _flip(cut / manifest.name(6) / "rank-0.safetensors")
    (cut / f"{PARTIAL}x").mkdir()
    assert train(cut, 7) == (4, whole[1][4:])
    assert read_manifest(cut / manifest.name(6)).step == 6
    assert not list(cut.glob(f"{PARTIAL}*"))
    assert len(list(cut.glob(f"{ASIDE}*"))) == 1


def test_a_manifest_without_its_checksum_is_damaged(cut: Path) -> None:
    path = steps_in(cut)[0]
    table = json.loads((path / MANIFEST).read_text())
    del table["sha256"]
    (path / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(ValueError, match="missing or damaged"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"step": -3}, "is damaged"),
        ({"samples_seen": -1}, "is damaged"),
        ({"files": {f"rank-{'x' * 5000}.safetensors": {"bytes": 1, "sha256": "x"}}}, "cannot be"),
        ({"files": {"rank-\0.safetensors": {"bytes": 1, "sha256": "x"}}}, "is missing"),
    ],
)
def test_a_manifest_that_no_run_writes_is_no_traceback(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    table = {"step": 1, "samples_seen": 1, "layout": "", "files": {}, **changed}
    content = {"checkpoint": table, "sha256": manifest._digest(table)}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        read_manifest(tmp_path)


def test_never_begins_anew_and_sets_aside_what_is_there(cut: Path) -> None:
    first, losses = train(cut, 3, "never")
    assert (first, len(losses)) == (0, 3)
    assert [path.name for path in steps_in(cut)] == [manifest.name(2)]


def test_a_path_names_a_record_or_a_checkpoint(cut: Path, tmp_path: Path) -> None:
    assert find(tmp_path).manifest.step == 6
    assert find(cut / manifest.name(4)).manifest.step == 4
    with pytest.raises(InputError, match=r"--resume .*: no sound checkpoint there; give"):
        find(tmp_path / "nowhere")
    _flip(cut / manifest.name(4) / "rank-0.safetensors")
    with pytest.raises(InputError, match=r"--resume .*is damaged; give another"):
        find(cut / manifest.name(4))


PICKLES = [
    (".metadata", pickled, "it was written as pickles by an older version, and is not read"),
    ("__0_0.distcp", saved_by_torch, "it was written as pickles by an older version"),
    ("rank-0.safetensors", pickled, "rank-0.safetensors: is not a safetensors file"),
    ("rank-0.safetensors", saved_by_torch, "rank-0.safetensors: is not a safetensors file"),
    ("rank-7.safetensors", pickled, "rank-7.safetensors: is not a safetensors file"),
    ("data.pkl", pickled, "data.pkl does not belong to it"),
]


@pytest.mark.parametrize(("name", "make", "told"), PICKLES)
def test_a_checkpoint_of_a_stranger_runs_no_code(
    name: str, make: Callable[[Path], bytes], told: str, cut: Path, tmp_path: Path
) -> None:
    checkpoint, trace = cut / manifest.name(6), tmp_path / "trace"
    plant(checkpoint, name, make(trace))
    with pytest.raises(InputError, match=rf"--resume .*{told}") as caught:
        find(checkpoint)
    assert "\n" not in str(caught.value)
    with suppress(InputError):  # what it does not know it does not read
        assert set(read_model(checkpoint)) == set(_network().state_dict())
    assert not trace.exists()


def test_a_restart_passes_over_what_a_stranger_has_left(
    whole: tuple[Path, list[float]], cut: Path, tmp_path: Path
) -> None:
    plant(cut / manifest.name(6), "rank-0.safetensors", pickled(tmp_path / "trace"))
    plant(cut / manifest.name(6), ".metadata", pickled(tmp_path / "trace"))
    assert train(cut, 7) == (4, whole[1][4:])
    assert not (tmp_path / "trace").exists()


def test_a_checkpoint_of_torch_itself_is_refused_with_a_line(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickled(tmp_path / "trace"))
    with pytest.raises(InputError, match="as pickles by an older version, and is not read"):
        read_model(tmp_path)
    with pytest.raises(InputError, match=r"there are no tensors \(rank-\*"):
        read_model(tmp_path / "nowhere")
    assert not (tmp_path / "trace").exists()


def _other(folder: Path) -> str:
    world = start(environment({}), ["worker"], timeout_s=30, device="cpu")
    made = open_checkpoints(world, folder, every=2, keep=1, layout="", resume="auto")
    told = []
    for attempt in (
        lambda: made.restore_model(nn.Sequential(nn.Linear(3, 5))),
        lambda: list(made.segments(6)),
    ):
        try:
            attempt()
        except InputError as error:
            told.append(str(error))
    stop(world)
    return "\n".join(told)


def test_another_model_and_too_few_steps_are_refused(cut: Path) -> None:
    (told,) = run_ranks(1, _other, cut)
    model, steps = told.splitlines()
    assert "has no 0.weight of shape [5, 3]: it is of another model; give --resume never" in model
    assert "is of step 6, and the run has only 6 steps; give more steps" in steps
