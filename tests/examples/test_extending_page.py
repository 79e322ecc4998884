"""docs/extending.md holds: the system that it shows under "A system" begins in an empty folder, is
installed, and does what the page says."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.examples.installed import ROOT, install, launched

PAGE = (ROOT / "docs" / "extending.md").read_text().partition("\n## A system\n")[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.M | re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
INSTALL, *TESTBED = COMMANDS


@pytest.mark.distributed
def test_the_system_of_the_page_works_in_an_empty_folder(tmp_path: Path) -> None:
    own, site = tmp_path / "own", tmp_path / "environment"
    own.mkdir()
    for kind, text in BLOCKS:
        if kind != "sh":
            (own / text.split()[1]).write_text(text)
    assert sorted(path.name for path in own.iterdir()) == ["pyproject.toml", "sums.py"]
    assert INSTALL == "pip install -e ."
    install(own, site)  # the same without network
    shown = {}
    for command in TESTBED:
        program, name, *flags = shlex.split(command)
        assert program == "testbed"
        shown[name] = launched(site, name, *flags, inside=own, without_torch=name != "doctor")
    assert "system sums: sums:SYSTEM" in shown["doctor"]
    assert "(planner: " in shown["simulate"]
    for record in ("sums", "again"):
        result = json.loads((own / "runs" / record / "result.json").read_text())
        assert (result["samples_per_step"], result["step_s"]["n"]) == (64, 17)  # 3 steps warm up
        for counted in result["bytes_per_step"]:
            assert counted["tcp_sent"] == pytest.approx(400_000, rel=0.02)
    assert (own / "runs" / "sums" / "trace.json").is_file()
    simulated = json.loads((own / "runs" / "simulated" / "result.json").read_text())
    assert simulated["step_s"] == pytest.approx(simulated["predicted_step_s"])
    with (own / "runs" / "sweep" / "sweep.csv").open() as file:
        rows = [(row["nodes"], row["values"], row["error"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [(n, v, "") for n in "248" for v in ("1000", "1000000")]
    assert (own / "runs" / "sweep" / "samples-per-s.png").is_file()


def test_nothing_else_is_shown() -> None:
    assert [kind for kind, _ in BLOCKS] == ["toml", "python", "sh", "sh"]
    assert len(COMMANDS) == 7
