"""Names and files that are not ASCII, in a locale that has nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from systems.clusters import cluster

JOB = Path("launch/jobs/stanza-vgg16-random.toml").absolute()


def test_files_and_paths_are_utf8_in_any_locale(tmp_path: Path) -> None:
    folder = tmp_path / "ü 日本"
    folder.mkdir()
    shutil.copy(JOB, folder / "jöb.toml")
    file = folder / "clüster.toml"
    text = cluster.to_toml(cluster.load("ec2-p3-10g")).replace('"ec2-p3-10g"', '"wölf"')
    file.write_text(text, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "launch", "simulate", "jöb.toml", "--world-size", "2"]
    done = subprocess.run(
        [*command, "--cluster", "clüster.toml", "--out", "aus"],
        env={**os.environ, **ascii_only, "PYTHONPATH": os.getcwd()},
        cwd=folder,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    job = (folder / "aus" / "job.toml").read_text(encoding="utf-8")
    assert f'cluster = "{file}"' in job
    run = json.loads((folder / "aus" / "run.json").read_text(encoding="utf-8"))
    assert "'jöb.toml' --world-size 2 --cluster 'clüster.toml'" in run["command"]
