"""The doctor: what works, what is missing for what, the command that mends it, the exit code."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.__main__ import main
from launch.commands import checks, doctor
from systems import finding
from systems.finding import Finding, extra


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """What `doctor --json` found, by name."""
    told = json.loads(capsys.readouterr().out)
    assert told["works"] == all(f["works"] for f in told["findings"] if f["required"])
    return {finding["name"]: finding for finding in told["findings"]}


def test_the_base_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    text = capsys.readouterr().out
    assert "BAD" not in text
    assert "ok   package stanza: this testbed's" in text
    assert text.splitlines()[-1].startswith("the base works")


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = findings(capsys)
    wanted = {"python", "torch", "CUDA", "g++", "nvcc", "mpirun", "mpi4py", "deepspeed"}
    wanted |= {"sparse backend minkowski", "transformers", "emulated clusters", "tensorboard"}
    wanted |= {"system stanza", "measured profiles", "rouge-score", "clusters"}
    wanted |= {"working folder", "kernel cache", "package systems", "processor"}
    assert wanted <= set(found)
    can_be_mended = [f for f in found.values() if not f["works"] and f["name"] != "CUDA"]
    assert all(f["command"] and f["needed_for"] for f in can_be_mended)


def test_what_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(checks, "unavailable", lambda: "not root; run as root")
    monkeypatch.delenv("CXX", raising=False)
    texts: dict[Callable[[], Finding], str] = {
        checks._gxx: "-    g++: none; needed for our kernels on CPUs",
        checks._emulation: "-    emulated clusters: not root; run as root; needed for testbed emul",
        lambda: extra("deepspeed", "deepspeed", "it"): "-    deepspeed: none; needed for it",
    }
    for check, said in texts.items():
        assert str(check()).startswith(said)
    assert checks._gxx().command == "apt-get install g++"
    assert "systems-testbed[deepspeed]" in extra("deepspeed", "deepspeed", "it").command


def test_a_machine_whose_name_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = str(checks._own_name())
    assert text.startswith("-    own name: no-such-host does not resolve; needed for runs over")
    assert text.endswith("echo ADDRESS-OF-THIS-NODE no-such-host | sudo tee -a /etc/hosts")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(2, 1, 6, "", ("192.0.2.7", 0))])
    assert str(checks._own_name()) == "ok   own name: no-such-host resolves to 192.0.2.7"


def test_a_full_disk_stops_the_base(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    text = capsys.readouterr().out
    assert "BAD  working folder: 0.0 GiB free" in text
    assert "or set TESTBED_CACHE to another folder" in text
    assert text.splitlines()[-1] == "the base does not work: mend working folder first"


def test_a_shadowed_package_is_found_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = {"stanza": "/else/stanza/__init__.py"}
    monkeypatch.setattr("launch.__main__.foreign_packages", lambda: foreign)
    monkeypatch.setattr("launch.commands.doctor.foreign_packages", lambda: foreign)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    assert stop.value.code == 1
    found = findings(capsys)
    assert "/else/stanza" in found["package stanza"]["found"]
    assert found["package stanza"]["command"] == "python -m pip uninstall stanza"
    assert "torch" not in found


def test_a_missing_base_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "sklearn" else spec(n))
    found = doctor.base_packages()
    assert not found.works
    assert found.found == "missing: scikit-learn"
    assert found.command == finding.INSTALL


def test_the_base_is_what_the_distribution_depends_on() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    needed = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert set(doctor.BASE.values()) == needed


def test_help_is_no_finding(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--help"])
    assert "--clean" in capsys.readouterr().out


def test_clean_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checks, "clean", lambda: (3, 1))
    main(["doctor", "--clean"])
    text = capsys.readouterr().out
    assert text.startswith("3 processes of emulated clusters")
    assert "; 1 control groups, and are removed" in text
