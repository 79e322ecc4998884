"""What users name by import path is found, or refused in one line that says what to do."""

from pathlib import Path
from typing import Any

import pytest

from systems import by_path
from systems.schema import InputError

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_file_and_a_module_of_the_working_directory_are_found() -> None:
    Path("beside.py").write_text("WIDTH = 3\n")
    Path("own_net.py").write_text("import beside\nclass Net:\n    width = beside.WIDTH\n")
    assert by_path.load("own_net.py:Net", "--model").width == 3
    assert by_path.load("own_net:Net", "--model") is by_path.load("own_net.py:Net", "--model")


def test_a_file_named_as_a_module_that_is_there_hides_neither() -> None:
    Path("json.py").write_text("MINE = 1\n")
    assert by_path.load("json.py:MINE", "--model") == 1
    assert by_path.load("json:loads", "--model")("2") == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:Net", "no module nowhere"),
        ("nowhere.py:Net", "no file nowhere.py"),
        ("broken.py:Net", "SyntaxError"),
        ("wants.py:Net", "No module named 'absent_package'"),
        ("raises.py:Net", "ZeroDivisionError: division by zero"),
        ("leaves.py:Net", "SystemExit"),
        ("fine.py:Nett", "has no attribute Nett; perhaps 'Net'"),
    ],
)
def test_what_cannot_be_imported_is_one_line(name: str, said: str) -> None:
    Path("broken.py").write_text("def (:\n")
    Path("wants.py").write_text("import absent_package\n")
    Path("raises.py").write_text("1 / 0\n")
    Path("leaves.py").write_text("raise SystemExit(3)\n")
    Path("fine.py").write_text("class Net: pass\n")
    with pytest.raises(InputError) as error:
        by_path.load(name, "--stanza.model")
    assert str(error.value).startswith(f"--stanza.model {name}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_factory_gets_the_arguments_that_it_names() -> None:
    def build(classes: int, width: int = 2) -> tuple[int, int]:
        return classes, width

    assert by_path.call(build, "m:build", "--model", classes=5, image_shape=(1,)) == (5, 2)
    assert by_path.call(lambda **options: options, "m:f", "--model", classes=5) == {"classes": 5}
    assert by_path.call(dict, "m:dict", "--model") == {}


def test_a_factory_that_wants_more_or_fails_is_one_line() -> None:
    with pytest.raises(InputError, match="wants the argument depth, and is called with classes"):
        by_path.call(lambda depth: depth, "m:f", "--model", classes=5)
    with pytest.raises(InputError, match=r"--model m:f: fails: ZeroDivisionError.*test_by_path"):
        by_path.call(lambda: 1 / 0, "m:f", "--model")
    with pytest.raises(InputError, match="is a int; give a class or a function"):
        by_path.call(3, "m:f", "--model")


def test_names_of_other_kinds_are_no_import_paths() -> None:
    assert by_path.is_path("package.net:Net")
    assert by_path.is_path("path/net.py:Net")
    assert not by_path.is_path("alexnet")
    assert not by_path.is_path("folder:images", kinds=("folder",))
    assert not by_path.is_path("folder:/some/where")


def test_a_relative_file_becomes_absolute(tmp_path: Path) -> None:
    Path("net.py").write_text("")
    assert by_path.absolute("net.py:Net", [tmp_path]) == f"{tmp_path}/net.py:Net"
    assert by_path.absolute("gone.py:Net", [tmp_path]) == "gone.py:Net"
    assert by_path.absolute("package:Net", [tmp_path]) == "package:Net"


def test_a_path_without_its_folder_is_the_same_everywhere() -> None:
    assert by_path.short("/some/where/net.py:Net") == by_path.short("net.py:Net") == "net.py:Net"
    assert by_path.short("package.net:Net") == "package.net:Net"
    assert by_path.short("alexnet") == "alexnet"


def test_texts_become_keyword_arguments() -> None:
    texts = ("lr=0.001", "betas=(0.9, 0.99)", "fused=True", "mode=max", "name=a=b")
    assert by_path.keywords(texts, "--options") == {
        "lr": 0.001,
        "betas": (0.9, 0.99),
        "fused": True,
        "mode": "max",
        "name": "a=b",
    }
    for text in ("lr", "=3", "2x=3"):
        with pytest.raises(InputError, match=r"--options .*: write NAME=VALUE"):
            by_path.keywords([text], "--options")
    with pytest.raises(InputError, match="lr is given twice"):
        by_path.keywords(["lr=1", "lr=2"], "--options")


def test_what_a_factory_is_given_reaches_it_or_is_one_line() -> None:
    assert by_path.apply(lambda a, b: (a, b), "m:f", "--loss", 1, b=2) == (1, 2)
    with pytest.raises(InputError, match="--loss-options c=2: m:f takes no c"):
        by_path.apply(lambda a: a, "m:f", "--loss", 1, c=2)


def test_parameters_are_told_with_those_that_are_required() -> None:
    def build(classes: int, /, width: int, *more: int, depth: int = 2, **others: int) -> None: ...

    assert by_path.named_parameters(build) == {"width": True, "depth": False}


def test_code_of_torch_that_only_trains_is_not_foreign() -> None:
    assert not by_path.is_foreign("torch.optim:AdamW")
    assert by_path.is_foreign("torch.hub:load")
    assert by_path.is_foreign("net.py:Net")


def test_the_users_own_line_is_named_rather_than_that_of_a_package_that_it_calls() -> None:
    Path("shapes.py").write_text("import torch, json\ndef make():\n    return torch.zeros(-1)\n")
    Path("texts.py").write_text("import json\ndef make():\n    return json.loads('{')\n")
    for file in ("shapes.py", "texts.py"):
        with pytest.raises(InputError, match=rf"\(.*{file}:3\)"):
            by_path.apply(by_path.load(f"{file}:make", "--model"), f"{file}:make", "--model")
    optimizer = by_path.load("torch.optim:SGD", "--optimizer")
    with pytest.raises(InputError, match=r"no parameters|empty parameter list$"):
        by_path.apply(optimizer, "torch.optim:SGD", "--optimizer", [], lr=0.1)


def test_a_wrong_argument_is_named_with_the_option_that_holds_it() -> None:
    def build(size: int, depth: int = 2, *, rate: float = 0.5) -> float:
        return size + depth + rate

    cases: list[tuple[dict[str, Any], str]] = [
        ({"size": 1, "dept": 3}, "--model-options dept=3: m:f takes no dept; perhaps 'depth'"),
        ({"size": 1, "rate": "fast"}, "--model-options rate=fast: .* a number .* rate=0.5"),
        ({"depth": 1}, "--model m:f: wants size; give --model-options size=..."),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said):
            by_path.apply(build, "m:f", "--model", **given)
