"""The report says of every number where it comes from, and reproduce keeps earlier results."""

import csv
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from launch.__main__ import main
from launch.reproduction.report import Concluded, Section, write_report
from stanza.experiments import EXPERIMENTS, PAPER
from systems.figures.experiment import Experiment, Outcome
from tests.launch.reports import example_section

PLANNER = next(e for e in EXPERIMENTS if e.id == "planner")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one experiment that shows everything a report can."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, [example_section(folder)], "quick")
    return folder


def test_markdown_holds_figures_claims_and_tiers(tmp_path: Path) -> None:
    outcome = PLANNER.conclude({}, tmp_path / "figures")
    concluded = Concluded(PLANNER, outcome, 1.0, "quick")
    write_report(tmp_path, [Section("stanza", PAPER, [concluded])], "quick")
    text = (tmp_path / "report.md").read_text()
    assert "![The planner's speed-ups at paper scale](figures/planner-speedup.png)" in text
    assert "Tier simulated" in text
    for claim in outcome.claims:
        assert claim.id in text
        assert f"**{claim.status}**" in text


def test_the_page_needs_no_other_file(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.findall(r"<link[^>]+stylesheet|<script[^>]+src|@import|url\(", page)
    assert re.findall(r'src="([^"]{5})', page) == ["data:"]
    outside = {
        link for link in re.findall(r'href="([^"]+)"', page) if not link.startswith(("#", "data:"))
    }
    assert outside == {"https://arxiv.org/abs/0000.00000"}


def test_links_within_the_page_resolve(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    places = re.findall(r'id="([^"]+)"', page)
    links = {unquote(link) for link in re.findall(r'href="#([^"]+)"', page)}
    assert links <= set(places)
    assert len(links) > 5
    assert len(places) == len(set(places))


def test_the_page_shows_every_claim_with_its_spread_and_status(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    table = page.partition('<section id="claims">')[2].partition("</section>")[0]
    for text in ("stanza.speed.a-b+c.1.measured", "1.5 x", "1 to 2", ">off<", ">pass<"):
        assert text in table
    assert "1 to 2, n=3" in page
    assert "testbed reproduce stanza --experiment planner --level quick" in page
    assert "Nothing in this reproduction answers it." in page


def test_the_first_screen_has_the_answers_and_the_rest_is_folded(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    first = page.partition("<main>")[2].partition("<details")[0]
    for text in (
        "An idea.",
        "It is fast.",
        "How fast it is.",
        "<b>a-b+c.1 1.5x</b>",
        "<b>d 4x</b>",
        ">off<",
    ):
        assert text in first
    off = page.partition('<details class="off">')[2].partition("</details>")[0]
    assert "1 of 2 claims" in off
    assert "How fast it is." in off
    folded = re.sub(r"<details.*?</details>", "", page, flags=re.S)
    for text in ("A caption.", "column 29", 'id="stanza.speed.d.simulated"', "torch"):
        assert text in page
        assert text not in folded


def test_text_of_experiments_is_escaped(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_prediction_stands_beside_what_was_found(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    predictions = page.partition('<section id="predictions">')[2].partition("</section>")[0]
    assert "20 ms" in predictions
    assert "25 ms" in predictions
    assert 'class="apart">1.250<' in predictions


def test_claims_are_also_lines_and_a_table(folder: Path) -> None:
    rows = json.loads((folder / "claims.json").read_text())
    lines = [json.loads(line) for line in (folder / "claims.jsonl").read_text().splitlines()]
    assert lines == rows
    with (folder / "claims.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    assert [float(row["ours"]) for row in table] == [row["ours"] for row in rows]
    assert (table[0]["spread_low"], table[0]["spread_high"]) == ("1.0", "2.0")
    assert table[1]["spread_low"] == ""


@pytest.fixture
def only_the_planner(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr(
        "launch.reproduction.reproduce.experiments_of",
        lambda system: (PLANNER,) if system.name == "stanza" else (),
    )
    return PLANNER


def test_reproduce_writes_claims_and_keeps_an_earlier_run(
    tmp_path: Path, only_the_planner: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reproduction"
    main(["reproduce", "stanza", "--out", str(out)])
    claims = json.loads((out / "claims.json").read_text())
    required = {"id", "system", "what", "paper", "ours", "unit", "tier", "n", "spread", "status"}
    assert all(required <= claim.keys() for claim in claims)
    assert str(out / "report.html") in capsys.readouterr().out
    (out / "report.md").write_text("mine")
    main(["reproduce", "stanza", "--experiment", "planner", "--out", str(out)])
    (kept,) = [path for path in tmp_path.iterdir() if path != out]
    assert (kept / "report.md").read_text() == "mine"


def test_a_repeated_experiment_leaves_the_report_of_all_where_it_is(
    tmp_path: Path, only_the_planner: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["reproduce"])
    (tmp_path / "reproduction" / "report.md").write_text("of all experiments")
    again = Concluded(PLANNER, Outcome(figures=(), claims=()), 1.0, "quick").command
    main(again.split()[1:])
    assert (tmp_path / "reproduction" / "report.md").read_text() == "of all experiments"
    assert {path.name for path in tmp_path.iterdir()} == {
        "reproduction",
        "reproduction-stanza-planner",
    }


def test_an_unknown_experiment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reproduction"
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "stanza", "--experiment", "planer", "--out", str(out)])
    assert stop.value.code == 2
    assert "--experiment planer: no such experiment; perhaps 'planner'" in capsys.readouterr().err
    assert not out.exists()
