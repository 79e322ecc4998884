"""What a run says in its last line."""

from systems.runs.training_line import training_line


def test_the_loss_of_the_last_step_is_in_the_last_line() -> None:
    result = {
        "samples_per_s": 10.0,
        "step_s": {"median": 0.1, "low": 0.1, "high": 0.2, "n": 3},
        "loss": [2.0, 1.0, 0.5],
    }
    assert training_line(result).endswith("(predicted: n/a), loss 0.5000")
    assert ", loss nan" in training_line(result | {"loss": [float("nan")]})
    assert "loss" not in training_line(result | {"loss": []})
