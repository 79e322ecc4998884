"""Traces as torch.profiler writes them, made by hand: every time in them is known.

A step of `factor` 1 takes 1000 us. On the host, in us from its start:

  100 to 300   Conv2d_0: aten::conv2d, 120 to 220, which calls aten::convolution
  300 to 350   ReLU_0: aten::relu, 310 to 330
  350 to 370   Net_0 itself: aten::flatten, 350 to 360
  370 to 470   Linear_0: aten::linear, 380 to 440, which makes two nodes
  500 to 540   CrossEntropyLoss_0, outside Net_0: aten::cross_entropy_loss, 510 to 530
  600 to 800   the backward pass
  900 to 990   the optimizer: aten::add_, 900 to 940
"""

import gzip
import json
from pathlib import Path
from typing import Any

HOST, BACKWARD = 11, 12
Json = dict[str, Any]


def event(kind: str, name: str, start: float, end: float, thread: int = HOST, **more: Any) -> Json:
    """One event; `more` are its arguments, with _ for a space."""
    arguments = {key.replace("_", " "): value for key, value in more.items()}
    times = {"ts": start, "dur": end - start}
    return {
        "ph": "X",
        "cat": kind,
        "name": name,
        "pid": 5,
        "tid": thread,
        **times,
        "args": arguments,
    }


def operator(
    name: str, start: float, end: float, number: int | None = None, dims: Any = None, **more: Any
) -> Json:
    """An operator of the forward pass, with its sequence number and the shapes that it takes."""
    if number is not None:
        more |= {"Sequence number": number, "Fwd thread id": 0}
    if dims is not None:
        more |= {"Input Dims": dims, "Input type": ["float"] * len(dims)}
    return event("cpu_op", name, start, end, **more)


def node(
    name: str, start: float, end: float, number: int, dims: list[int], **more: Any
) -> list[Json]:
    """A node of the backward pass: what runs it, and itself, which takes a gradient of a shape."""
    tie: Json = {"Sequence number": number, "Fwd thread id": 1} if number >= 0 else {}
    shapes: Json = {"Input Dims": [dims], "Input type": ["float"]}
    outer = event(
        "cpu_op", f"autograd::engine::evaluate_function: {name}", start, end, **tie, **more
    )
    return [outer, event("cpu_op", name, start + 0.5, end - 0.5, **tie, **shapes, **more)]


def step(number: int, factor: float = 1.0, *, gpu: bool = False, shapes: bool = True) -> list[Json]:
    """The events of one step, which begins at 100,000 us times its number. Sequence numbers begin
    at 10 times its number."""
    n, grad = 10 * number, BACKWARD if gpu else HOST
    accumulate = "torch::autograd::AccumulateGrad"
    forward = [
        event("user_annotation", f"ProfilerStep#{number}", 0, 1000),
        event("python_function", "nn.Module: Net_0", 90, 490),
        event("python_function", "nn.Module: Conv2d_0", 100, 300),
        operator("aten::conv2d", 120, 220, n, [[8, 3, 4, 4], [6, 3, 3, 3], [6]], External_id=n),
        operator("aten::convolution", 130, 210, n, External_id=n + 1),
        event("python_function", "nn.Module: ReLU_0", 300, 350),
        operator("aten::relu", 310, 330, n + 1, [[8, 6, 4, 4]]),
        operator("aten::flatten", 350, 360, n + 2, [[8, 6, 4, 4]]),
        event("python_function", "nn.Module: Linear_0", 370, 470),
        operator("aten::linear", 380, 440, n + 3, [[8, 96], [10, 96], [10]]),
        operator("aten::t", 385, 390, n + 3, [[10, 96]]),
        operator("aten::addmm", 395, 435, n + 4, [[10], [8, 96], [96, 10]]),
        event("python_function", "nn.Module: CrossEntropyLoss_0", 500, 540),
        operator("aten::cross_entropy_loss", 510, 530, n + 5, [[8, 10], [8]]),
        operator("aten::ones_like", 540, 545),
        event("user_annotation", "Optimizer.step#SGD.step", 900, 990),
        operator("aten::add_", 900, 940),
    ]
    backward = [
        *node("NllLossBackward0", 600, 610, n + 5, [], thread=grad),
        *node("AddmmBackward0", 610, 670, n + 4, [8, 10], thread=grad),
        *node(accumulate, 670, 673, -1, [10], thread=grad),
        *node("TBackward0", 673, 675, n + 3, [96, 10], thread=grad),
        *node(accumulate, 675, 680, -1, [10, 96], thread=grad),
        *node("ViewBackward0", 680, 685, n + 2, [8, 96], thread=grad),
        *node("ReluBackward0", 685, 700, n + 1, [8, 6, 4, 4], thread=grad),
        *node("ConvolutionBackward0", 700, 790, n, [8, 6, 4, 4], thread=grad),
        *node(accumulate, 790, 795, -1, [6, 3, 3, 3], thread=grad),
        *node(accumulate, 795, 800, -1, [6], thread=grad),
    ]
    events = [*forward, *backward]
    for one in events:
        one["ts"] = 1e5 * number + factor * one["ts"]
        one["dur"] *= factor
        if not shapes:
            one["args"].pop("Input Dims", None)
    return events


def write(path: Path, events: list[Json], **table: Any) -> Path:
    """Write a trace, in gzip if the name of the file says so."""
    text = json.dumps({"schemaVersion": 1, **table, "traceEvents": events})
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path
