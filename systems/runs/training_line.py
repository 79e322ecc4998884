"""The result of a training run in one line."""

from collections.abc import Mapping
from typing import Any


def training_line(result: Mapping[str, Any]) -> str:
    """A result in one line: throughput, step time beside what was predicted
    or simulated, the loss of the last step, and accuracy if it was tested."""
    step = result["step_s"]
    known = {way: result.get(f"{way}_step_s") for way in ("simulated", "predicted")}
    beside = [f"{way}: {s * 1e3:.2f} ms" for way, s in known.items() if s is not None]
    losses = result.get("loss")
    loss = f", loss {losses[-1]:.4f}" if losses else ""
    tested = result.get("test_accuracy")
    accuracy = "" if tested is None else f", test accuracy {tested:.2%}"
    if "no_test_accuracy" in result:
        accuracy = f", no test accuracy: {result['no_test_accuracy']}"
    return (
        f"{result['samples_per_s']:,.0f} samples/s, step {step['median'] * 1e3:.2f} ms "
        f"[{step['low'] * 1e3:.2f}, {step['high'] * 1e3:.2f}] n={step['n']} "
        f"({', '.join(beside) or 'predicted: n/a'}){loss}{accuracy}"
    )
