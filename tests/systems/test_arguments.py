"""Errors of the libraries name arguments, not flags."""

from systems.arguments import as_arguments


def test_flags_become_arguments_of_any_system() -> None:
    text = "--micro-batches 4: whole mini-batches; leave it out, or choose --schedule 1f1b"
    assert as_arguments(text) == (
        "micro_batches=4: whole mini-batches; leave it out, or choose schedule=1f1b"
    )
    assert as_arguments("--sparsepipe.lr-schedule a:b") == "lr_schedule=a:b"
