"""Turns plain data (TOML, JSON) into frozen dataclasses and back, strictly.

A key that no field has, a missing key, or a value of the wrong type is an `InputError`: one line
that names the place, the value and the remedy. Nothing is guessed, and nothing is converted except
int to float and list to tuple.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class InputError(ValueError):
    """Bad input from a user. Its text is one line; the command line prints it and exits with 2."""


def remedy(wrong: str, known: typing.Iterable[str]) -> str:
    """Say what a user may write instead of a wrong word: the closest known word, or all known
    words."""
    names = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(wrong.lower(), names, n=1)
    return f"perhaps {names[close[0]]!r}" if close else f"known: {', '.join(names.values())}"


def read(cls: type[T], data: Any, where: str) -> T:
    """Make a `cls` (a dataclass) from a table.

    Args:
        cls: a dataclass; nested dataclasses, tuples, unions, literals and mappings are understood.
        data: what tomllib or json gave.
        where: the file and table, for messages.

    Raises:
        InputError: naming the key, its value and the remedy.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected a table, found {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}; {_remedy(cls, str(key))}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}: {name}")
        elif not _has_default(field):
            raise InputError(f"{where}: key {name!r} is missing; add {name} = ...")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def load(cls: type[T], path: Path, what: str, maker: str) -> T:
    """Make a `cls` from a JSON file that a user names.

    Args:
        what: what the file should hold, for messages.
        maker: the command that writes one.

    Raises:
        InputError: no such file, not JSON, or see `read`.
    """
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file; make one with `{maker}`")
    return read(cls, _parsed(path, json.loads, f"{what} {path}: not JSON"), str(path))


def load_toml(cls: type[T], path: Path) -> T:
    """Make a `cls` from a TOML file, which is there.

    Raises:
        InputError: not TOML, or see `read`.
    """
    return read(cls, load_table(path), str(path))


def load_table(path: Path) -> dict[str, Any]:
    """The plain data in a TOML file, which is there.

    Raises:
        InputError: not TOML.
    """
    advice = '; write lines such as name = "mine" or steps = 40, and tables such as [stanza]'
    table: dict[str, Any] = _parsed(path, tomllib.loads, f"{path}: not TOML", advice)
    return table


def load_json(path: Path) -> Any:
    """The plain data in a JSON file, which is there.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    return _parsed(path, json.loads, f"{path}: not JSON")


def _parsed(path: Path, parse: Callable[[str], Any], problem: str, advice: str = "") -> Any:
    """What `parse` makes of the text in a file, or InputError: the problem, the reason and the
    advice."""
    try:
        return parse(path.read_text())
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # no such syntax, no text, or a number of too many digits
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deep"
    raise InputError(f"{problem}: {reason}{advice}")


def dump(value: Any) -> Any:
    """A dataclass as plain data: the inverse of `read`. Fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: dump(v) for name, v in pairs if v is not None}
    if isinstance(value, Mapping):
        return {str(key): dump(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(v) for v in value]
    return value


def to_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Write plain data as JSON. All JSON of the testbed is written with this.

    JSON has neither NaN nor infinities, and strict readers refuse a file that has them: each is
    written as null.

    Raises:
        TypeError: something that JSON cannot hold.
    """
    return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def count_not_finite(value: Any) -> int:
    """Count the numbers in plain data that are NaN or infinite; they are null in its JSON."""
    if isinstance(value, Mapping):
        return sum(map(count_not_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(count_not_finite, value))
    return int(isinstance(value, float) and not math.isfinite(value))


def _finite(value: Any) -> Any:
    """Replace every number in plain data that is NaN or infinite by None."""
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if count_not_finite(value) else value


def _has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field may be missing."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _remedy(cls: type, key: str) -> str:
    """Say what to do about an unknown key: move it to the table that has it, or write a similar
    key."""
    hints = typing.get_type_hints(cls)
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and key in {f.name for f in dataclasses.fields(hint)}:
            return f"it belongs in the table [{name}]"
    return remedy(key, hints)


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of plain data as its type hint wants it; `where` is its place, for messages."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_match(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} = {value!r}: {remedy(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} = {value!r}: expected a list")
        return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} = {value!r}: expected a table")
        return {key: _value(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(hint, value, where)  # type: ignore[arg-type]
    return _scalar(hint, value, where)


def _first_match(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first type of a union wants it that takes it."""
    known = [hint for hint in hints if hint is not type(None)]
    if len(known) == 1 and value is not None:  # its own message says more
        return _value(known[0], value, where)
    for hint in hints:
        try:
            return _value(hint, value, where)
        except InputError:
            continue
    kinds = " or ".join(map(_name, known))
    raise InputError(f"{where} = {value!r}: expected {kinds}")


def _scalar(hint: Any, value: Any, where: str) -> Any:
    """The value as a plain type such as int or str; a whole number may stand for a float."""
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.nan
        if math.isnan(number):  # it would pass every check of its range
            raise InputError(f"{where} = {str(value)[:20]}: expected a number that a float holds")
        return number
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    quoted = "; write it without quotes and without a unit, such as 2e9"
    advice = quoted if hint is float and isinstance(value, str) else ""
    raise InputError(f"{where} = {value!r}: expected {_name(hint)}{advice}")


def _name(hint: Any) -> str:
    """Name a type in messages."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(v) for v in typing.get_args(hint))
    return str(getattr(hint, "__name__", hint))


def filled_in(text: str, **values: str) -> str:
    """A text in which every `{name}` is replaced by the value of that name; other braces stay."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text
