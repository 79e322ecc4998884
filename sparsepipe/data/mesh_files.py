"""Mesh files: OBJ and OFF, also as ModelNet writes it. `read_mesh` opens these and PLY."""

import re
from itertools import chain
from pathlib import Path

import numpy as np

from sparsepipe.data.bad_files import naming
from sparsepipe.data.meshes import Mesh, triangulate
from sparsepipe.data.ply import parse_ply
from systems.schema import InputError

SUFFIXES = (".obj", ".off", ".ply")


def read_mesh(path: Path) -> Mesh:
    """The mesh in an OBJ, OFF or PLY file, polygons cut into triangles.

    Raises InputError, in one line that names the file, if it is truncated or damaged, has no
    vertices, a vertex that is not finite, or a face that names a vertex it does not have.
    """
    with naming(path):
        suffix = path.suffix.lower()
        if suffix == ".ply":
            return parse_ply(path.read_bytes())
        # Names and comments may be in any encoding; numbers are ASCII.
        text = path.read_text(encoding="latin-1")
        if suffix == ".obj":
            return parse_obj(text)
        if suffix == ".off":
            return parse_off(text)
        raise InputError(f"not a mesh file; give one of {', '.join(SUFFIXES)}")


def parse_obj(text: str) -> Mesh:
    """The vertices (v) and faces (f) of an OBJ text; everything else in it is left out."""
    vertices: list[list[str]] = []
    faces: list[list[int]] = []
    for line in text.replace("\\\n", " ").splitlines():
        keyword, *words = line.partition("#")[0].split() or [""]
        if keyword == "v":
            vertices.append(words[:3])
        elif keyword == "f":
            faces.append([_obj_vertex(word, len(vertices)) for word in words])
    return _mesh(vertices, faces)


def _obj_vertex(word: str, vertices: int) -> int:
    """The row of a face's corner: `7`, `7/1`, `7//2` or `7/1/2`; negative ones count back."""
    number = int(word.partition("/")[0])
    if number == 0 or number < -vertices:
        raise InputError(f"a face names vertex {number}; OBJ counts from 1, or back from -1")
    return number - 1 if number > 0 else vertices + number


def parse_off(text: str) -> Mesh:
    """The mesh of an OFF text, with or without colours and normals, which are left out.

    Many of ModelNet's files have the counts on the first line, right after the word: OFF490 518 0.
    """
    lines = [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    header = re.match(r"(?:C?N?OFF)\s*(.*)", lines[0]) if lines else None
    if header is None:
        raise InputError("the first line does not say OFF")
    lines = [header[1], *lines[1:]] if header[1] else lines[1:]
    vertex_count, face_count = _off_counts(lines[0] if lines else "")
    if len(lines) < 1 + vertex_count + face_count:
        raise InputError(
            f"truncated: {len(lines) - 1:,} lines for {vertex_count:,} vertices "
            f"and {face_count:,} faces"
        )
    vertices = [line.split()[:3] for line in lines[1 : 1 + vertex_count]]
    faces = []
    for line in lines[1 + vertex_count : 1 + vertex_count + face_count]:
        count, *corners = line.split()
        if len(corners) < int(count):
            raise InputError(f"truncated: the face {line!r} has fewer corners than it says")
        faces.append([int(corner) for corner in corners[: int(count)]])
    return _mesh(vertices, faces)


def _off_counts(line: str) -> tuple[int, int]:
    words = line.split()
    if not 2 <= len(words) <= 3 or not all(word.isdecimal() for word in words):
        raise InputError(f"found {line!r} where the numbers of vertices, faces and edges belong")
    return int(words[0]), int(words[1])


def _mesh(vertices: list[list[str]], faces: list[list[int]]) -> Mesh:
    if any(len(vertex) != 3 for vertex in vertices):
        raise InputError("a vertex has fewer than 3 coordinates")
    places = np.array(list(map(float, chain.from_iterable(vertices)))).reshape(-1, 3)
    corners = np.array(list(chain.from_iterable(faces)), dtype=np.int64)
    counts = np.array([len(face) for face in faces], dtype=np.int64)
    return Mesh(places, triangulate(corners, counts))
