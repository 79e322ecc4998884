"""Reading mesh files: OBJ and OFF (also as ModelNet40 writes it). `read_mesh` opens PLY as well.

These are readers of our own because no library reads the three formats safely. trimesh 5.2 returns
wrong meshes without an error for OBJ faces that count back from the last vertex, for OFF files with
a comment and for truncated OFF and PLY files, and refuses binary PLY files whose polygons have
different numbers of corners. meshio 5.3 never returns from a truncated PLY header.
"""

import re
from itertools import chain
from pathlib import Path

import numpy as np

from sparsepipe.data.bad_files import naming
from sparsepipe.data.meshes import Mesh, triangles_of
from sparsepipe.data.ply import lines_of, parse_ply
from systems.schema import InputError

SUFFIXES = (".obj", ".off", ".ply")


def read_mesh(path: Path) -> Mesh:
    """Read an OBJ, OFF or PLY file and cut its polygons into triangles.

    Raises:
        InputError: the file is truncated or damaged, has no vertices, has a vertex that is not
            finite, or has a face that names a vertex which is not there. The message is one
            line that names the file.
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
        raise InputError(f"this is not a mesh file; give one of {', '.join(SUFFIXES)}")


def parse_obj(text: str) -> Mesh:
    """Read the vertices (lines `v`) and faces (lines `f`) of an OBJ file. All other lines, such as
    texture coordinates and materials, are ignored."""
    vertices: list[list[str]] = []
    faces: list[list[int]] = []
    for line in lines_of(re.sub(r"\\\r?\n", " ", text)):  # a backslash continues a line
        keyword, *words = line.partition("#")[0].split() or [""]
        if keyword == "v":
            vertices.append(words[:3])
        elif keyword == "f":
            faces.append([_obj_vertex(word, len(vertices)) for word in words])
    return _mesh(vertices, faces)


def _obj_vertex(word: str, vertices: int) -> int:
    """The row of the vertex that one corner of an OBJ face names.

    A corner is written `7`, `7/1`, `7//2` or `7/1/2`, and the first number names the vertex. It
    counts from 1; a negative one counts back from the last of the `vertices` that precede the face.
    """
    number = int(word.partition("/")[0])
    if number == 0 or number < -vertices:
        raise InputError(f"a face names vertex {number}; OBJ counts from 1, or back from -1")
    return number - 1 if number > 0 else vertices + number


def parse_off(text: str) -> Mesh:
    """Read an OFF file. Colours and normals in it are ignored.

    Many of ModelNet40's files are broken in one way, which is accepted here: the counts stand on
    the first line, right after the word, as in `OFF490 518 0`.
    """
    lines = [line for raw in lines_of(text) if (line := raw.partition("#")[0].strip())]
    header = re.match(r"(?:C?N?OFF)\s*(.*)", lines[0]) if lines else None
    if header is None:
        raise InputError("the first line does not say OFF")
    lines = [header[1], *lines[1:]] if header[1] else lines[1:]
    vertex_count, face_count = _off_counts(lines[0] if lines else "")
    if len(lines) < 1 + vertex_count + face_count:
        raise InputError(
            f"the file is truncated: it has {len(lines) - 1:,} lines for {vertex_count:,} vertices "
            f"and {face_count:,} faces"
        )
    vertices = [line.split()[:3] for line in lines[1 : 1 + vertex_count]]
    faces = []
    for line in lines[1 + vertex_count : 1 + vertex_count + face_count]:
        count, *corners = line.split()
        if not 0 <= int(count) <= len(corners):
            raise InputError(f"the file is truncated: the face {line!r} lacks corners")
        faces.append([int(corner) for corner in corners[: int(count)]])
    return _mesh(vertices, faces)


def _off_counts(line: str) -> tuple[int, int]:
    """The numbers of vertices and faces from an OFF file's line of counts. The number of edges,
    which may follow, is ignored."""
    words = line.split()
    if not 2 <= len(words) <= 3 or not all(word.isdecimal() for word in words):
        raise InputError(
            f"the line {line!r} stands where the numbers of vertices, faces and edges belong"
        )
    return int(words[0]), int(words[1])


def _mesh(vertices: list[list[str]], faces: list[list[int]]) -> Mesh:
    """The mesh of a text file's vertices, as words, and its faces, as lists of rows of vertices."""
    if any(len(vertex) != 3 for vertex in vertices):
        raise InputError("a vertex has fewer than 3 coordinates")
    places = np.array(list(map(float, chain.from_iterable(vertices)))).reshape(-1, 3)
    return Mesh(places, triangles_of(faces))
