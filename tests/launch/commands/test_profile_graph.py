from pathlib import Path

import pytest

from launch.commands.profile_graph import main
from systems.profiles import profile
from systems.schema import InputError

GRAPH = """\
node1 -- Input0 -- forward_compute_time=9.0, backward_compute_time=0.0, activation_size=0.0, \
parameter_size=0.000
node2 -- Conv2d(3, 64) -- forward_compute_time=1.5, backward_compute_time=3.0, \
activation_size=1024.0, parameter_size=256.000
\tnode1 -- node2
"""


def test_a_published_graph_becomes_a_profile_that_plans_can_be_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, out = tmp_path / "graph.txt", tmp_path / "profile.json"
    graph.write_text(GRAPH)
    words = ["--model", "tiny", "--device", "P100", "--batch-size", "8", "--out", str(out)]
    main([str(graph), *words])
    read = profile.load(out)
    assert (read.name, read.device, read.batch_size, read.source) == (
        "tiny",
        "P100",
        8,
        "graph.txt",
    )
    assert [layer.forward_s for layer in read.layers] == [0.0015]
    assert "tiny, batch 8 on P100: 1 layers" in capsys.readouterr().out


def test_a_graph_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        main([str(tmp_path / "none.txt"), "--out", str(tmp_path / "profile.json")])
