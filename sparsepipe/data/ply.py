"""Reading PLY files: a header declares elements and their properties; rows of numbers follow.

    ply                                     the magic word
    format ascii 1.0                        or binary_little_endian, binary_big_endian
    element vertex 4                        four rows follow, each with the properties below
    property float x                        one number
    ...
    element face 2
    property list uchar int vertex_indices  a count (uchar), then as many corners (int)
    end_header
    0 0 0                                   the rows, element after element

Elements and properties other than x, y and z of `vertex` and the corners of `face` are ignored.
"""

import re
import struct
from dataclasses import dataclass, field

import numpy as np

from sparsepipe.data.meshes import Mesh, triangles_of
from systems.schema import InputError

CODES = {
    **dict.fromkeys(("char", "int8"), "b"),
    **dict.fromkeys(("uchar", "uint8"), "B"),
    **dict.fromkeys(("short", "int16"), "h"),
    **dict.fromkeys(("ushort", "uint16"), "H"),
    **dict.fromkeys(("int", "int32"), "i"),
    **dict.fromkeys(("uint", "uint32"), "I"),
    **dict.fromkeys(("float", "float32"), "f"),
    **dict.fromkeys(("double", "float64"), "d"),
}
"""The letter that Python's `struct` has for each type of a property."""
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
CORNERS = ("vertex_indices", "vertex_index")
"""Names that files give to the list of a face's corners. Both are in use."""


@dataclass(frozen=True)
class Property:
    """One property of an element. A list has a `count_code`, the type of the count before it."""

    name: str
    code: str
    count_code: str = ""


@dataclass(frozen=True)
class Element:
    """What a header declares: `count` rows, each with these properties in this order."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)


class _Numbers:
    """The numbers after the header, taken one after the other."""

    def __init__(self, body: bytes, order: str) -> None:
        """`order` is the byte order as `struct` writes it, or "" for a body in ASCII."""
        self.body, self.order, self.position = body, order, 0
        self.words = [] if order else body.split()

    def take(self, count: int, code: str) -> tuple[float, ...]:
        """The next `count` numbers of a type. Raises InputError where the body ends before."""
        if count < 0:
            raise InputError(f"a list has {count} items")
        start = self.position
        if self.order:
            layout = f"{self.order}{count}{code}"
            self.position += struct.calcsize(layout)
            if self.position <= len(self.body):
                return struct.unpack_from(layout, self.body, start)
        else:
            self.position += count
            if self.position <= len(self.words):
                return tuple(map(float, self.words[start : self.position]))
        raise InputError("the file is truncated: numbers are missing at its end")


def parse_ply(content: bytes) -> Mesh:
    """The mesh in the content of a PLY file. Raises InputError that says what is wrong with it."""
    order, elements, body = _header(content)
    numbers = _Numbers(body, order)
    columns = {element.name: _columns(element, numbers) for element in elements}
    vertices, faces = columns.get("vertex", {}), columns.get("face", {})
    if missing := [axis for axis in "xyz" if axis not in vertices]:
        raise InputError(f"the vertices have no property {missing[0]!r}")
    places = np.array([[row[0] for row in vertices[axis]] for axis in "xyz"], np.float64).T
    corners = next((faces[name] for name in CORNERS if name in faces), [])
    return Mesh(places, triangles_of(corners))


def lines_of(text: str) -> list[str]:
    """The lines of a text in Latin-1. Only line feeds and carriage returns end one: other bytes, at
    which str.splitlines parts lines too, belong to letters of other encodings."""
    return re.split(r"\r\n|\r|\n", text)


def _columns(element: Element, numbers: _Numbers) -> dict[str, list[tuple[float, ...]]]:
    """The values of each property of an element, a tuple for each row, by the property's name."""
    columns: dict[str, list[tuple[float, ...]]] = {p.name: [] for p in element.properties}
    for _ in range(element.count):
        for wanted in element.properties:
            count = int(numbers.take(1, wanted.count_code)[0]) if wanted.count_code else 1
            columns[wanted.name].append(numbers.take(count, wanted.code))
    return columns


def _header(content: bytes) -> tuple[str, list[Element], bytes]:
    """The byte order ("" for ASCII), the declared elements, and the bytes after the header."""
    head, end, body = content.partition(b"end_header")
    lines = lines_of(head.decode("latin-1"))
    if not lines or lines[0].strip() != "ply":
        raise InputError("the first line does not say ply")
    if not end:
        raise InputError("the file is truncated: the header has no end_header")
    order, elements = None, []
    for words in (line.split() for line in lines[1:]):
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", str(name), _] if name in BYTE_ORDERS:
                order = BYTE_ORDERS[name]
            case ["element", str(name), str(count)] if count.isdecimal():
                elements.append(Element(name, int(count)))
            case ["property", str(kind), str(name)] if elements and kind in CODES:
                elements[-1].properties.append(Property(name, CODES[kind]))
            case ["property", "list", str(count_kind), str(kind), str(name)] if (
                elements and kind in CODES and CODES.get(count_kind, "f") not in "fd"
            ):
                elements[-1].properties.append(Property(name, CODES[kind], CODES[count_kind]))
            case _:
                raise InputError(f"the header line {' '.join(words)!r} is not understood")
    if order is None:
        raise InputError(f"the header names no format of {', '.join(BYTE_ORDERS)}")
    return order, elements, body.partition(b"\n" if b"\n" in head else b"\r")[2]
