"""Tables become frozen dataclasses strictly, and every refusal is one line that helps."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings, strategies as st

from systems.schema import (
    InputError,
    count_not_finite,
    dump,
    load,
    load_toml,
    read,
    remedy,
    to_json,
)


@dataclass(frozen=True, kw_only=True)
class Point:
    x: float
    label: str = "origin"


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    centre: Point
    corners: tuple[Point, ...] = ()
    closed: bool = True
    sides: int = 3
    colour: Literal["red", "green"] = "red"
    width: float | None = None
    size: int | str = 1
    hole: Point | None = None
    tags: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sides < 3:
            raise InputError(f"sides = {self.sides}: give 3 or more")


SMALL = {"name": "a", "centre": {"x": 1.5}}


def refusal(data: Any) -> str:
    """The message for a bad table."""
    with pytest.raises(InputError) as caught:
        read(Shape, data, "shape.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("shape.toml")
    return message


def test_reads_nested_tables_with_defaults() -> None:
    shape = read(Shape, SMALL | {"corners": [{"x": 1.0}, {"x": 2.0, "label": "b"}]}, "here")
    corners = (Point(x=1.0), Point(x=2.0, label="b"))
    assert shape == Shape(name="a", centre=Point(x=1.5), corners=corners)


def test_unknown_key_names_the_close_one() -> None:
    message = refusal(SMALL | {"sidez": 4})
    assert message == "shape.toml: unknown key 'sidez'; perhaps 'sides'"


def test_unknown_key_without_a_close_one_lists_all() -> None:
    message = refusal(SMALL | {"qqqq": 4})
    assert "unknown key 'qqqq'" in message
    for name in ("centre", "closed", "colour", "corners", "name", "sides", "width"):
        assert name in message


def test_unknown_key_of_a_nested_table_names_the_table() -> None:
    message = refusal({"name": "a", "centre": {"x": 1.0, "labl": "c"}})
    assert message == "shape.toml: centre: unknown key 'labl'; perhaps 'label'"


def test_key_in_the_wrong_table_is_sent_to_its_own() -> None:
    message = refusal(SMALL | {"label": "c"})
    assert message == "shape.toml: unknown key 'label'; it belongs in the table [centre]"


@pytest.mark.parametrize("missing", ["name", "centre"])
def test_missing_key_is_named(missing: str) -> None:
    table = {key: value for key, value in SMALL.items() if key != missing}
    assert f"key {missing!r} is missing" in refusal(table)


def test_missing_key_of_a_list_entry_is_located() -> None:
    message = refusal(SMALL | {"corners": [{"x": 1.0}, {"label": "b"}]})
    assert message.startswith("shape.toml: corners[1]: key 'x' is missing")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", 3, "expected str"),
        ("sides", "4", "expected int"),
        ("sides", 4.0, "expected int"),
        ("sides", True, "expected int"),
        ("closed", 1, "expected bool"),
        ("closed", "true", "expected bool"),
        ("width", "2", "expected float"),
        ("width", False, "expected float"),
        ("size", 1.5, "expected int or str"),
        ("size", True, "expected int or str"),
        ("corners", {"x": 1.0}, "expected a list"),
        ("centre", 3, "expected a table, found 3"),
        ("hole", 3, "expected a table, found 3"),
        ("tags", [1], "expected a table"),
        ("tags", {"a": "1"}, "expected int"),
    ],
)
def test_wrong_type_is_named(key: str, value: object, expected: str) -> None:
    message = refusal(SMALL | {key: value})
    assert message.startswith(f"shape.toml: {key}")
    assert expected in message


def test_int_becomes_float_and_nothing_else_is_converted() -> None:
    shape = read(Shape, SMALL | {"centre": {"x": 2}, "width": 3, "sides": 4}, "here")
    assert isinstance(shape.centre.x, float)
    assert isinstance(shape.width, float)
    assert isinstance(shape.sides, int)


def test_bool_is_no_float() -> None:
    assert "centre: x = True: expected float" in refusal({"name": "a", "centre": {"x": True}})


def test_literal_names_the_close_word() -> None:
    message = refusal(SMALL | {"colour": "gren"})
    assert message == "shape.toml: colour = 'gren': perhaps 'green'"
    assert read(Shape, SMALL | {"colour": "green"}, "here").colour == "green"


def test_optional_may_be_left_out_or_given() -> None:
    assert read(Shape, SMALL, "here").width is None
    assert read(Shape, SMALL | {"width": None}, "here").width is None
    assert read(Shape, SMALL | {"width": 0.5}, "here").width == 0.5


def test_error_inside_an_optional_table_is_told_in_full() -> None:
    assert refusal(SMALL | {"hole": {"y": 1.0}}).startswith("shape.toml: hole: unknown key 'y'")


def test_union_takes_each_of_its_types() -> None:
    assert read(Shape, SMALL | {"size": "big"}, "here").size == "big"
    assert read(Shape, SMALL | {"size": 7}, "here").size == 7


def test_refusal_of_the_class_itself_is_located() -> None:
    assert refusal(SMALL | {"sides": 2}) == "shape.toml: sides = 2: give 3 or more"


@pytest.mark.parametrize("data", [[], "text", 3, None])
def test_only_a_table_makes_a_dataclass(data: object) -> None:
    assert "expected a table" in refusal(data)


def test_none_is_left_out_of_a_dump() -> None:
    assert "width" not in dump(Shape(name="a", centre=Point(x=0.0)))


def test_remedy_prefers_the_close_word() -> None:
    assert remedy("vgg1", ["vgg16", "alexnet"]) == "perhaps 'vgg16'"
    assert remedy("zzz", ["vgg16", "alexnet"]) == "known: alexnet, vgg16"


numbers = st.floats(allow_nan=False)
points = st.builds(Point, x=numbers, label=st.text())
shapes = st.builds(
    Shape,
    name=st.text(),
    centre=points,
    corners=st.lists(points, max_size=3).map(tuple),
    closed=st.booleans(),
    sides=st.integers(min_value=3),
    colour=st.sampled_from(["red", "green"]),
    width=st.none() | numbers,
    size=st.integers() | st.text(),
    hole=st.none() | points,
    tags=st.dictionaries(st.text(), st.integers(), max_size=3),
)


@settings(deadline=None)
@given(shapes)
def test_read_undoes_dump(shape: Shape) -> None:
    assert read(Shape, dump(shape), "here") == shape


@settings(deadline=None)
@given(shapes, st.text())
def test_a_key_more_is_never_accepted(shape: Shape, key: str) -> None:
    if key in Shape.__dataclass_fields__:
        return
    with pytest.raises(InputError, match="unknown key"):
        read(Shape, dump(shape) | {key: 1}, "here")


NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats() | NOT_FINITE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(plain)
def test_json_is_what_strict_readers_take(value: Any) -> None:
    text = to_json(value)
    again = json.loads(text, parse_constant=refuse_constant)
    before, after = len(re.findall("null", text)), count_not_finite(value)
    assert count_not_finite(again) == 0
    if after == 0:
        assert again == value
        assert text == json.dumps(value)
    else:
        assert before >= after


def test_numbers_that_are_not_finite_are_null_and_counted() -> None:
    value = {"loss": [1.0, math.nan, (math.inf,)], "n": {"low": -math.inf, "high": 2, "x": None}}
    assert json.loads(to_json(value)) == {
        "loss": [1.0, None, [None]],
        "n": {"low": None, "high": 2, "x": None},
    }
    assert count_not_finite(value) == 3


def test_what_json_cannot_hold_is_no_null() -> None:
    with pytest.raises(TypeError):
        to_json({"new": [1, object()]})


def test_all_json_files_are_written_by_one_function() -> None:
    """What is named here writes no file: messages, a command line, a line of text and booleans."""
    others = {
        "launch/commands/doctor.py",
        "launch/launchers/start.py",
        "systems/processes/forked.py",
        "systems/processes/watchdog.py",
        "systems/schema.py",
    }
    root = Path(__file__).parents[2]
    packages = ("launch", "stanza", "sparsepipe", "speculative", "systems")
    found = {
        str(path.relative_to(root))
        for package in packages
        for path in (root / package).rglob("*.py")
        if re.search(r"\bjson\.dumps?\(", path.read_text())
    }
    assert found <= others


def test_a_number_in_quotes_and_a_file_that_is_no_toml_get_a_remedy(tmp_path: Path) -> None:
    @dataclass
    class Link:
        bandwidth_bits_per_s: float

    with pytest.raises(InputError, match=r"'2 Gb': expected float; write it without .* 2e9"):
        read(Link, {"bandwidth_bits_per_s": "2 Gb"}, "file")
    (tmp_path / "a.toml").write_text("name = mine\n")
    with pytest.raises(InputError, match=r'not TOML: .*; write lines such as name = "mine"'):
        load_toml(Link, tmp_path / "a.toml")


@dataclass
class Measured:
    seconds: float = 0.0
    shares: tuple[float, ...] = ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"seconds": NaN}', "seconds = nan: expected a number"),
        ('{"shares": [1, NaN]}', "shares[1] = nan: expected a number"),
        ('{"seconds": 1%s}' % ("0" * 400), "expected a number that a float holds"),
        ('{"seconds": 1%s}' % ("0" * 5000), "not JSON: Exceeds the limit"),
        ("[" * 100_000, "not JSON: it is nested too deep"),
        ("\udcff", "not JSON"),
        ("\ufeff{}", "not JSON"),
    ],
)
def test_numbers_and_texts_that_no_program_writes(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a{b}.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        load(Measured, path, "plan", "make")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seconds = nan", "seconds = nan: expected a number"),
        ("seconds = 1" + "0" * 5000, "not TOML: Exceeds the limit"),
        ("seconds = " + "[" * 100_000, "not TOML: it is nested too deep; write lines such as"),
    ],
)
def test_toml_that_no_program_writes(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError) as error:
        load_toml(Measured, tmp_path / "a.toml")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
