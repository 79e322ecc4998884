"""Files that are read as traces, and files that are not."""

import gzip
import json
from pathlib import Path

import pytest

from systems.profiles.trace_file import read_trace
from systems.schema import InputError
from tests.systems.profiles import traces
from tests.systems.profiles.traces import step


def test_json_and_gzip_are_read_alike(tmp_path: Path) -> None:
    plain = traces.write(tmp_path / "trace.json", step(1))
    packed = traces.write(tmp_path / "trace.json.gz", step(1))
    assert read_trace(plain) == read_trace(packed)
    assert len(read_trace(plain).events) == len(step(1))
    assert not read_trace(plain).on_gpu


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(traces.write(tmp_path / "trace.json.gz", step(1)).read_bytes())
    assert read_trace(path).events


def test_a_bare_list_of_events_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(step(1)))
    assert read_trace(path).events


def of_other_process(events: list[traces.Json]) -> list[traces.Json]:
    return [event | {"pid": 6} for event in events]


def of_two_gpus() -> list[traces.Json]:
    kernels = [traces.event("kernel", "k", 0, 1, device=number) for number in (0, 1)]
    return [*step(1), *kernels]


WHOLE = json.dumps({"traceEvents": step(1)}).encode()
BAD = {
    "missing": (None, ["no such file", "export_chrome_trace"]),
    "empty": (b"", ["is empty"]),
    "text": (b"12 ms", ["not JSON"]),
    "latin": (b'{"a": "\xe9"}', ["not JSON"]),
    "cut": (WHOLE[:5000], ["not JSON", "copy the whole file again"]),
    "cut gzip": (gzip.compress(WHOLE)[:200], ["gzip file is not whole", "copy it again"]),
    "gzip with a flipped bit": (gzip.compress(WHOLE)[:-8] + bytes(8), ["gzip file is not whole"]),
    "number": (b"12", ["no traceEvents"]),
    "profile": (b'{"name": "vgg16", "layers": []}', ["no traceEvents"]),
    "no operators": (b'{"traceEvents": [{"ph": "M", "name": "process_name"}]}', ["no operators"]),
    "events are numbers": (b'{"traceEvents": [1]}', ["malformed"]),
    "no times": (b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "a"}]}', ["malformed"]),
    "two ranks": (
        json.dumps(step(1) + of_other_process(step(2))).encode(),
        ["2 processes", "rank"],
    ),
    "two GPUs": (json.dumps(of_two_gpus()).encode(), ["2 GPUs", "uses one"]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_trace_of_one_rank_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    content, words = BAD[what]
    path = tmp_path / "trace.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_trace(path)
    text = str(refused.value)
    assert "\n" not in text
    assert all(word in text for word in (str(path), *words)), text
