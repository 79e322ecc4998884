"""torch's compiler is not imported by training, and is there when somebody compiles."""

import subprocess
import sys

SCRIPT = """
from systems import dynamo
dynamo.postpone()
import inspect, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3))
for kind in (torch.optim.SGD, torch.optim.AdamW):
    optimizer = kind(model.parameters(), lr=0.1)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
inspect.stack()
print("sympy" in sys.modules)

torch._dynamo.disable(recursive=True)(len)
@torch.compiler.disable
def plus_one(x):
    return x + 1
print(torch.compile(lambda x: 2 * plus_one(x), backend="eager")(torch.ones(1)).item())
print(sys.modules["torch._dynamo"].__file__ is not None, "sympy" in sys.modules)
optimizer.step()
dist.destroy_process_group()
"""


def test_training_leaves_the_compiler_alone_until_something_is_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["False", "4.0", "True True"]
