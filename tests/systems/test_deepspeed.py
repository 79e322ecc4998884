"""Options that need DeepSpeed name the way to it; on CPUs it compiles nothing."""

import sys
from dataclasses import replace

import pytest
import torch

from launch.launchers.start import start_command
from launch.planning import plan_job
from sparsepipe.options import Options as SparseOptions
from sparsepipe.train.deepspeed_baseline import check_deepspeed
from stanza.options import Options as StanzaOptions
from stanza.system import SYSTEM as STANZA
from systems.deepspeed import check_installed, import_deepspeed
from systems.schema import InputError


def test_without_deepspeed_every_option_names_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not installed
    way = r": DeepSpeed is not installed; .* pip install 'systems-testbed\[deepspeed\]'"
    with pytest.raises(InputError, match=f"--stanza.scheme zero2{way}"):
        check_installed("--stanza.scheme zero2")
    job = STANZA.job(StanzaOptions(scheme="zero1"), world_size=2)
    with pytest.raises(InputError, match=f"--stanza.scheme zero1{way}"):
        STANZA.check(job, plan_job(job, may_measure=False))
    with pytest.raises(InputError, match=f"--sparsepipe.scheme deepspeed{way}"):
        check_deepspeed(SparseOptions(scheme="deepspeed", batch_size=8, micro_batches=2))
    with pytest.raises(InputError, match=f"--launcher deepspeed{way}"):
        start_command(replace(job, launcher="deepspeed"), [])


def test_on_a_cpu_no_kernel_is_compiled() -> None:
    pytest.importorskip("deepspeed")
    deepspeed = import_deepspeed(torch.device("cpu"), "gloo")
    assert not deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]
