"""Meshes: sampling against known areas, and files as people write them, good and bad."""

import contextlib
import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from sparsepipe.data.bad_files import naming
from sparsepipe.data.mesh_files import parse_obj, parse_off, read_mesh
from sparsepipe.data.meshes import Mesh, triangles_of
from sparsepipe.data.ply import parse_ply
from systems.schema import InputError

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


# Sampling


def test_sampling_follows_areas() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5], [5, 7, 5], [5, 5, 8.0]])
    triangles = np.array([[0, 1, 2], [0, 0, 1], [3, 4, 5]])  # areas 1/2, 0, 3
    mesh = Mesh(vertices, triangles)
    assert mesh.area() == pytest.approx(3.5)
    points, normals = mesh.sample(20_000, np.random.default_rng(0))
    large = points[:, 0] > 2
    assert large.mean() == pytest.approx(3 / 3.5, abs=5 * 0.35 / np.sqrt(20_000))
    assert np.array_equal(np.abs(normals[large]), np.tile([1.0, 0, 0], (large.sum(), 1)))
    assert np.array_equal(normals[~large], np.tile([0.0, 0, 1], ((~large).sum(), 1)))
    # Uniform in a triangle: its mean is the centroid, and a quarter lies at each corner.
    small = points[~large]
    assert small.mean(axis=0) == pytest.approx([1 / 3, 1 / 3, 0], abs=0.03)
    assert (small[:, 0] > 0.5).mean() == pytest.approx(0.25, abs=0.05)
    assert (small.sum(axis=1) < 0.5).mean() == pytest.approx(0.25, abs=0.05)


def test_samples_are_seeded() -> None:
    mesh = parse_obj(SQUARE + "f 1 2 3 4\n")
    first, again = (mesh.sample(10, np.random.default_rng(3))[0] for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("faces", ["", "f 1 1 2\n", "f 1 2\n"])
def test_a_mesh_without_area_gives_its_vertices(faces: str) -> None:
    mesh = parse_obj(SQUARE + faces)
    points, normals = mesh.sample(3, np.random.default_rng(0))
    assert len({tuple(point) for point in points}) == 3
    assert not normals.any()
    assert len(mesh.sample(100, np.random.default_rng(0))[0]) == 4


@given(st.lists(st.integers(0, 7), max_size=12))
def test_triangulation_keeps_the_area_of_regular_polygons(counts: list[int]) -> None:
    angles = [2 * np.pi * np.arange(count) / max(count, 1) for count in counts]
    angle = np.concatenate([np.zeros(0), *angles])
    vertices = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    starts = np.cumsum([0, *counts])
    triangles = triangles_of([range(a, b) for a, b in pairwise(starts.tolist())])
    expected = sum(n / 2 * np.sin(2 * np.pi / n) for n in counts if n > 2)
    assert len(triangles) == sum(n - 2 for n in counts if n > 2)
    if len(angle):
        assert Mesh(vertices, triangles).area() == pytest.approx(expected)


# Files


def test_obj_with_everything() -> None:
    text = (
        "# comment\nmtllib a.mtl\no thing\nv 0 0 0 0.5 0.5 0.5\nv 1 0 0 # comment\nv 1 1 0\n"
        "vt 0 0\nvn 0 0 1\ns off\nf 1/1/1 2//1 \\\n  3\nv 0 1 0\nf -4/1 -2 -1\nl 1 2\n"
    )
    mesh = parse_obj(text)
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.area() == pytest.approx(1)


@pytest.mark.parametrize("header", ["OFF\n4 1 0\n", "OFF4 1 0\n", "OFF 4 1 0\n", "COFF\n4 1\n"])
def test_off(header: str) -> None:
    body = "0 0 0\n1 0 0 255 0 0 0\n\n# comment\n1 1 0\n0 1 0\n4 0 1 2 3 0.5 0.5 0.5\n"
    mesh = parse_off(header + body)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


PLY_HEADER = (
    "ply\nformat {} 1.0\ncomment by hand\nelement vertex 4\nproperty float x\nproperty float y\n"
    "property float z\nproperty uchar red\nelement face 2\nproperty list uchar int vertex_indices\n"
    "property uchar flags\nend_header\n"
)


def ply(form: str) -> bytes:
    """A square as one triangle and one quadrilateral of half the area each, overlapping nowhere."""
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    faces = [(0, 1, 2), (0, 2, 3, 3)]
    head = PLY_HEADER.format(form).encode()
    if form == "ascii":
        lines = [f"{x} {y} {z} 9" for x, y, z in corners]
        lines += [f"{len(f)} {' '.join(map(str, f))} 1" for f in faces]
        return head + "\n".join(lines).encode() + b"\n"
    order = "<" if "little" in form else ">"
    body = b"".join(np.array(c, f"{order}f4").tobytes() + b"\x09" for c in corners)
    for face in faces:
        body += bytes([len(face)]) + np.array(face, f"{order}i4").tobytes() + b"\x01"
    return head + body


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply(form: str) -> None:
    mesh = parse_ply(ply(form))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 3]]
    assert mesh.area() == pytest.approx(1)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_every_truncated_ply_is_refused(form: str) -> None:
    content = ply(form)
    # An ASCII number may be cut short and still be one: cut only the last line away.
    cuts = range(len(content) - 1) if form != "ascii" else range(len(content) - 2)
    for length in cuts:
        with pytest.raises(InputError):
            parse_ply(content[:length])


def test_ply_without_faces() -> None:
    content = (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\nproperty double y\n"
        b"property double z\nend_header\n0 0 0\n1 2 3\n"
    )
    mesh = parse_ply(content)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert len(mesh.triangles) == 0


MESHES = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        arrays(np.float32, (count, 3), elements=st.floats(-(2**40), 2**40, width=32)),
        st.lists(st.lists(st.integers(0, count - 1), min_size=3, max_size=6), max_size=12),
    )
)


@given(MESHES)
def test_obj_and_off_round_trips(mesh: tuple[np.ndarray, list[list[int]]]) -> None:
    vertices, faces = mesh
    rows = [" ".join(repr(float(x)) for x in v) for v in vertices]
    triangles = triangles_of(faces)
    obj = "".join(f"v {row}\n" for row in rows)
    obj += "".join("f " + " ".join(str(i + 1) for i in face) + "\n" for face in faces)
    off = f"OFF\n{len(rows)} {len(faces)} 0\n" + "".join(row + "\n" for row in rows)
    off += "".join(" ".join(map(str, [len(face), *face])) + "\n" for face in faces)
    for read in (parse_obj(obj), parse_off(off)):
        assert np.array_equal(read.vertices, vertices)
        assert np.array_equal(read.triangles, triangles)


@given(MESHES, st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]))
def test_ply_round_trips(mesh: tuple[np.ndarray, list[list[int]]], form: str) -> None:
    vertices, faces = mesh
    head = (
        f"ply\nformat {form} 1.0\nelement vertex {len(vertices)}\nproperty float x\n"
        f"property float y\nproperty float z\nelement face {len(faces)}\n"
        "property list uchar uint vertex_index\nend_header\n"
    )
    if form == "ascii":
        lines = [" ".join(repr(float(x)) for x in v) for v in vertices]
        lines += [" ".join(map(str, [len(face), *face])) for face in faces]
        body = "\n".join(lines).encode()
    else:
        order = "<" if "little" in form else ">"
        body = vertices.astype(f"{order}f4").tobytes()
        body += b"".join(bytes([len(f)]) + np.array(f, f"{order}u4").tobytes() for f in faces)
    read = parse_ply(head.encode() + body)
    assert np.array_equal(read.vertices, vertices)
    assert np.array_equal(read.triangles, triangles_of(faces))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", b"", "no vertices"),
        ("a.obj", b"# nothing\nf 1 2 3\n", "a face names vertex 0|no vertices"),
        ("a.obj", b"v 0 0\n", "fewer than 3 coordinates"),
        ("a.obj", b"v 0 0 nan\n", "vertex 0"),
        ("a.obj", b"v 0 0 inf\n", "vertex 0"),
        ("a.obj", b"v 0 zero 0\n", "zero"),
        ("a.obj", SQUARE.encode() + b"f 1 2 5\n", "vertex 4, counted from 0, but there are 4"),
        ("a.obj", SQUARE.encode() + b"f 0 1 2\n", "counts from 1"),
        ("a.obj", SQUARE.encode() + b"f -5 1 2\n", "vertex -5"),
        ("a.obj", SQUARE.encode() + b"f a b c\n", "'a'"),
        ("a.obj", bytes(range(256)), "no vertices"),
        ("a.off", b"", "does not say OFF"),
        ("a.off", b"PLY\n1 1 1\n", "does not say OFF"),
        ("a.off", b"OFF\n", "numbers of vertices"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n", "truncated"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n3 0 1\n", "truncated"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0\n1 1 0\n3 0 1 2\n", "fewer than 3"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n3 0 1 3\n", "vertex 3"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n3 0 1 -1\n", "vertex -1"),
        ("a.off", b"OFF\n0 0 0\n", "no vertices"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n-1 0 1 2\n", "lacks corners"),
        ("a.obj", SQUARE.encode() + b"f 1 2 99999999999999999999\n", "vertex 1e.20, which is no"),
        ("a.ply", ply("ascii").replace(b"0 2 3 3", b"0 2 2.5 3"), "vertex 2.5, which is no whole"),
        ("a.ply", b"", "does not say ply"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "no end_header"),
        ("a.ply", b"ply\nend_header\n", "names no format"),
        ("a.ply", b"ply\nformat wrong 1.0\nend_header\n", "'format wrong 1.0' is not understood"),
        ("a.ply", b"ply\nformat ascii 1.0\nend_header\n", "no property 'x'"),
        ("a.ply", ply("ascii").replace(b"0 2 3 3", b"0 2 3 4"), "vertex 4"),
        ("a.ply", ply("ascii").replace(b"1 1 0 9", b"1 nan 0 9"), "vertex 2"),
        ("a.ply", ply("ascii").replace(b"vertex 4", b"vertex 999999999"), "truncated"),
        ("a.ply", ply("ascii").replace(b"3 0 1 2 1", b"-3 0 1 2 1"), "-3 items"),
        ("a.stl", b"solid", "this is not a mesh file; give one of .obj, .off, .ply"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_mesh(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count(str(path)) == 1
    assert "\n" not in str(error.value)


LETTERS = "Åse's mesh, \u0085 and \u2028 and \x0c 1 2 3"
"""In UTF-8 some of these letters have bytes that are ends of lines in Latin-1."""


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply"])
def test_comments_of_any_letters_are_one_line(suffix: str, newline: str, tmp_path: Path) -> None:
    texts = {
        ".obj": f"# {LETTERS}\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        ".off": f"OFF\n# {LETTERS}\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        ".ply": "ply\nformat binary_big_endian 1.0\ncomment " + LETTERS + "\nelement vertex 3\n"
        "property float x\nproperty float y\nproperty float z\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n",
    }
    content = texts[suffix].replace("\n", newline).encode()
    if suffix == ".ply":
        content += struct.pack(">9fB3i", 0, 0, 0, 1, 0, 0, 0, 1, 0, 3, 0, 1, 2)
    (tmp_path / f"a{suffix}").write_bytes(content)
    mesh = read_mesh(tmp_path / f"a{suffix}")
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.triangles.tolist() == [[0, 1, 2]]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.obj: No such file"):
        read_mesh(tmp_path / "a.obj")


@given(st.text("OFvf 0123456789-./e\n", max_size=60), st.sampled_from(["v", "OFF\n", "OFF3"]))
def test_noise_raises_nothing_else(text: str, start: str) -> None:
    parse = parse_obj if start == "v" else parse_off
    with contextlib.suppress(InputError), naming(Path("noise")):
        parse(start + text)


def test_real_meshes() -> None:
    folder = Path(os.environ.get("TESTBED_DATA", "")) / "meshes"
    if "TESTBED_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("TESTBED_DATA names no folder with meshes/*.obj")
    bunny = read_mesh(folder / "stanford-bunny.obj")
    assert (len(bunny.vertices), len(bunny.triangles)) == (35947, 69451)
    suzanne = read_mesh(folder / "suzanne.obj")  # of polygons with normals
    assert len(suzanne.vertices) == 507
    assert len(suzanne.triangles) > 900
    for path in sorted(folder.glob("*.obj")):
        mesh = read_mesh(path)
        points, normals = mesh.sample(500, np.random.default_rng(0))
        assert (points >= mesh.vertices.min(axis=0) - 1e-9).all()
        assert (points <= mesh.vertices.max(axis=0) + 1e-9).all()
        assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
