"""PLY files: a header that declares elements and their properties, then ASCII or binary rows.

Elements and properties other than x, y, z of `vertex` and the corners of `face` are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sparsepipe.data.meshes import Mesh, triangulate
from systems.schema import InputError

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
CORNERS = ("vertex_indices", "vertex_index")  # both are in use


@dataclass(frozen=True)
class Property:
    """`type` and `count_type` are NumPy's; only a list has a count, which stands before it."""

    name: str
    type: str
    count_type: str | None = None


@dataclass(frozen=True)
class Element:
    """`count` rows of these properties."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)


# A property's values in all rows, one row after the other, and how many each row has.
Column = tuple[np.ndarray, np.ndarray]


def parse_ply(content: bytes) -> Mesh:
    """The mesh of a PLY file. Raises InputError that says what is wrong with it."""
    order, elements, body = _header(content)
    words = body.split() if order == "" else []
    found: dict[tuple[str, str], Column] = {}
    position = 0
    for element in elements:
        if order == "":
            columns, position = _ascii(element, words, position)
        else:
            columns, position = _binary(element, body, position, order)
        for wanted, column in zip(element.properties, columns, strict=True):
            found[element.name, wanted.name] = column
    if missing := [axis for axis in "xyz" if ("vertex", axis) not in found]:
        raise InputError(f"vertices have no property {missing[0]!r}")
    vertices = np.stack([found["vertex", axis][0] for axis in "xyz"], axis=1).astype(np.float64)
    corners = next((found["face", name] for name in CORNERS if ("face", name) in found), None)
    if corners is None:
        return Mesh(vertices, np.empty((0, 3), dtype=np.int64))
    return Mesh(vertices, triangulate(corners[0].astype(np.int64), corners[1]))


def _header(content: bytes) -> tuple[str, list[Element], bytes]:
    """The byte order, the elements, and what follows the header."""
    head, end, body = content.partition(b"end_header")
    lines = head.decode("latin-1").splitlines()
    if not lines or lines[0].strip() != "ply":
        raise InputError("the first line does not say ply")
    if not end:
        raise InputError("truncated: the header has no end_header")
    order, elements = None, []
    for words in (line.split() for line in lines[1:]):
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", str(name), _] if name in BYTE_ORDERS:
                order = BYTE_ORDERS[name]
            case ["element", str(name), str(count)] if count.isdecimal():
                elements.append(Element(name, int(count)))
            case ["property", str(kind), str(name)] if elements and kind in TYPES:
                elements[-1].properties.append(Property(name, TYPES[kind]))
            case ["property", "list", str(count_kind), str(kind), str(name)] if (
                elements and kind in TYPES and TYPES.get(count_kind, "f")[0] in "iu"
            ):
                elements[-1].properties.append(Property(name, TYPES[kind], TYPES[count_kind]))
            case _:
                raise InputError(f"header line not understood: {' '.join(words)!r}")
    if order is None:
        raise InputError(f"the header names no format of {', '.join(BYTE_ORDERS)}")
    return order, elements, body.partition(b"\n")[2]


def _ascii(element: Element, words: list[bytes], start: int) -> tuple[list[Column], int]:
    if not any(p.count_type for p in element.properties):
        width = len(element.properties)
        stop = start + element.count * width
        _check_length(element, stop, len(words))
        table = np.array(list(map(float, words[start:stop]))).reshape(element.count, width)
        return [(column, np.ones(element.count, np.int64)) for column in table.T], stop
    values: list[list[float]] = [[] for _ in element.properties]
    counts: list[list[int]] = [[] for _ in element.properties]
    position = start
    for _ in range(element.count):
        for number, wanted in enumerate(element.properties):
            length = 1
            if wanted.count_type:
                _check_length(element, position + 1, len(words))
                length = _list_length(int(words[position]))
                position += 1
            _check_length(element, position + length, len(words))
            values[number].extend(map(float, words[position : position + length]))
            counts[number].append(length)
            position += length
    return [
        (np.array(v), np.array(c, np.int64)) for v, c in zip(values, counts, strict=True)
    ], position


def _binary(element: Element, body: bytes, start: int, order: str) -> tuple[list[Column], int]:
    """Blocks of rows whose lists have the lengths of the block's first row, each read at once."""
    rows, position, ahead = 0, start, 1024
    parts = [[(np.empty(0), np.empty(0, np.int64)) for _ in element.properties]]
    while rows < element.count:
        row, lengths = _row_type(element, body, position, order)
        fitting = (len(body) - position) // row.itemsize
        _check_length(element, rows + 1, rows + fitting)
        block = np.frombuffer(body, row, min(element.count - rows, fitting, ahead), position)
        same = np.ones(len(block), dtype=bool)
        for number, length in lengths.items():
            same &= block[f"count{number}"] == length
        taken = len(same) if same.all() else int(same.argmin())
        parts.append(_columns(element, block[:taken]))
        rows, position = rows + taken, position + taken * row.itemsize
        ahead = max(2 * taken, 8)  # where lengths alternate, looking far ahead would be in vain
    return [_joined(pieces) for pieces in zip(*parts, strict=True)], position


def _joined(pieces: Iterable[Column]) -> Column:
    values, counts = zip(*pieces, strict=True)
    return np.concatenate(values), np.concatenate(counts)


def _row_type(
    element: Element, body: bytes, position: int, order: str
) -> tuple[np.dtype, dict[int, int]]:
    """The type of the row at `position`, and the length of each list in it, by property."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    lengths = {}
    for number, wanted in enumerate(element.properties):
        if wanted.count_type is None:
            fields.append((f"value{number}", order + wanted.type))
            continue
        fields.append((f"count{number}", order + wanted.count_type))
        so_far = np.dtype(fields)
        _check_length(element, position + so_far.itemsize, len(body))
        length = np.frombuffer(body, so_far, 1, position)[f"count{number}"][0]
        lengths[number] = _list_length(int(length))
        fields.append((f"value{number}", order + wanted.type, (lengths[number],)))
    return np.dtype(fields), lengths


def _columns(element: Element, block: np.ndarray) -> list[Column]:
    columns = []
    for number in range(len(element.properties)):
        values = block[f"value{number}"].reshape(len(block), -1)
        columns.append((values.ravel(), np.full(len(block), values.shape[1])))
    return columns


def _check_length(element: Element, needed: int, present: int) -> None:
    if needed > present:
        raise InputError(f"truncated: it ends inside the element {element.name!r}")


def _list_length(length: int) -> int:
    if length < 0:
        raise InputError(f"a list has {length} items")
    return length
