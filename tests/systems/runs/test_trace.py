"""Spans of all ranks make one valid Chrome trace."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from systems.runs.trace import Tracer, join

CLOCK_US = 0.6  # microseconds since 1970 in a double are a quarter apart


def spans(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """The complete events of the joined trace."""
    loaded = json.loads(join(folder, names).read_text())
    return [event for event in loaded["traceEvents"] if event["ph"] == "X"]


def end(event: dict[str, Any]) -> float:
    return float(event["ts"] + event["dur"])


def test_join_is_a_chrome_trace_of_all_ranks(tmp_path: Path) -> None:
    for rank in range(3):
        tracer = Tracer(tmp_path, rank)
        with tracer.span("compute", micro_batch=rank):
            pass
        tracer.close()
    names = [f"rank {rank} (conv)" for rank in range(3)]
    path = join(tmp_path, names)
    assert path == tmp_path / "trace.json"
    events = json.loads(path.read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == names
    assert [e["pid"] for e in events if e["ph"] == "M"] == [0, 1, 2, 0, 1, 2]
    complete = [e for e in events if e["ph"] == "X"]
    assert [(e["pid"], e["name"], e["args"]) for e in complete] == [
        (rank, "compute", {"micro_batch": rank}) for rank in range(3)
    ]
    for event in complete:
        assert event["dur"] >= 0
        assert isinstance(event["tid"], int)  # Perfetto takes no names here
    assert min(event["ts"] for event in complete) == 0


def test_a_span_waits_for_what_the_thread_has_begun(tmp_path: Path) -> None:
    """On a GPU: before it, so that it holds its own work alone, and at its end."""
    order: list[str] = []
    tracer = Tracer(tmp_path, 0, settle=lambda: order.append("settled"))
    with tracer.span("forward"):
        order.append("begun")
    tracer.close()
    assert order == ["settled", "begun", "settled"]
    with Tracer(None, 0, settle=lambda: order.append("never")).span("forward"):
        pass
    assert "never" not in order


def test_spans_nest(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, 0)
    with tracer.span("step"):
        with tracer.span("forward"):
            time.sleep(0.002)
        with tracer.span("backward"), tracer.span("send"):
            time.sleep(0.001)
    tracer.close()
    found = {event["name"]: event for event in spans(tmp_path, ["rank 0"])}
    for outer, inner in (("step", "forward"), ("step", "backward"), ("backward", "send")):
        assert found[outer]["ts"] <= found[inner]["ts"] + CLOCK_US
        assert end(found[inner]) <= end(found[outer]) + CLOCK_US
    assert end(found["forward"]) <= found["backward"]["ts"] + CLOCK_US
    assert found["forward"]["dur"] >= 2000 - CLOCK_US


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads change places all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_have_tracks_of_their_own(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, 0)

    def work() -> None:
        for i in range(500):
            with tracer.span("work", i=i):
                pass

    threads = [threading.Thread(target=work, name=f"sender {i}") for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracer.close()
    found = spans(tmp_path, ["rank 0"])
    assert len(found) == 4 * 500  # no line is torn or lost
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {named[event["tid"]] for event in found} == {f"sender {i}" for i in range(4)}


def test_a_clock_that_is_behind_is_put_right(tmp_path: Path) -> None:
    for rank, ahead_ns in enumerate((0, 60_000_000_000)):
        tracer = Tracer(tmp_path, rank, ahead_ns)
        with tracer.span("compute"):
            pass
        tracer.close()
    first, second = spans(tmp_path, ["rank 0", "rank 1"])
    assert second["ts"] - first["ts"] == pytest.approx(60e6, rel=0.1)


def test_failed_block_is_recorded(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, 0)
    with pytest.raises(RuntimeError, match="broken"), tracer.span("broken"):
        raise RuntimeError("broken")
    tracer.close()
    assert [event["name"] for event in spans(tmp_path, ["rank 0"])] == ["broken"]


def test_off_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracer = Tracer.off()
    with tracer.span("compute"):
        pass
    tracer.close()
    assert list(tmp_path.iterdir()) == []


def test_close_may_be_called_twice(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, 0)
    tracer.close()
    tracer.close()
    assert spans(tmp_path, ["rank 0"]) == []
