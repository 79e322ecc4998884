"""Files of tensors: what is written is read, by others too, and strangers' files are refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from systems.runs import tensor_files
from systems.runs.tensor_files import DTYPES, TensorFile
from systems.schema import InputError
from tests.pickles import pickled, saved_by_torch


def _tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = {name: (8 * torch.randn(3, 5)).to(dtype) for name, dtype in DTYPES.items()}
    transposed = torch.arange(6.0).view(2, 3).t()
    return {**found, "scalar": torch.tensor(7.0), "empty": torch.zeros(0, 4), "t": transposed}


def test_every_dtype_and_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, tensors = tmp_path / "file", _tensors()
    tensor_files.write(path, tensors, {"step": "7"})
    file = TensorFile(path)
    assert file.notes == {"step": "7"}
    assert list(file.entries) == list(tensors)
    for name, tensor in tensors.items():
        read = file.tensor(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert read.tolist() == tensor.tolist()


def test_safetensors_reads_the_same(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "file"
    tensors = {name: value for name, value in _tensors().items() if name != "C64"}  # newer ones do
    tensor_files.write(path, tensors, {"step": "7"})
    read = safetensors.load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].tolist() == tensor.tolist()


def test_what_the_format_has_no_name_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a: tensors of torch\.complex128 cannot be saved"):
        tensor_files.write(tmp_path / "file", {"a": torch.zeros(1, dtype=torch.complex128)}, {})


def _file(header: bytes, values: bytes = bytes(8)) -> bytes:
    return len(header).to_bytes(8, "little") + header + values


def _entry(**changed: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}
    return _file(json.dumps({"a": entry}).encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "in another format, or cut short"),
        (b"\x04", "in another format, or cut short"),
        (_entry()[:40], "in another format, or cut short"),
        (_entry()[:-1], "the bytes of a are not all there"),
        (_file(b"{"), "no JSON"),
        (_file(b"[" * 100_000), "no JSON"),
        (_file(b"\xff\xfe"), "no JSON"),
        (_file(b"[]"), "no table"),
        (_file(b'{"__metadata__": {"a": 1}}'), "no table of texts"),
        (_file(b'{"a": 1}'), "expected a table"),
        (_entry(more=1), "unknown key 'more'"),
        (_entry(dtype="O"), "dtype 'O'"),
        (_entry(shape=[-2]), "no possible shape"),
        (_entry(shape=[-1, -2]), "no possible shape"),
        (_entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "no possible shape"),
        (_entry(shape=[2**70]), "no possible shape"),
        (_entry(shape=[True]), "expected int"),
        (_entry(shape=[3]), "not all there"),
        (_entry(data_offsets=[8, 0]), "not all there"),
        (_entry(data_offsets=[-8, 0]), "not all there"),
        (_entry(data_offsets=[4, 12]), "not all there"),
        (_entry(data_offsets=[0]), "no possible shape and place"),
    ],
)
def test_a_file_that_is_not_in_the_format_is_one_line(
    content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path / 'file'}: .*{told}") as caught:
        TensorFile(tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [pickled, saved_by_torch])
def test_pickles_are_not_run(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(make(tmp_path / "trace"))
    with pytest.raises(InputError, match="is not a safetensors file"):
        TensorFile(tmp_path / "file")
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "file", weights_only=False) if make is saved_by_torch else None
    assert (tmp_path / "trace").exists() == (make is saved_by_torch)  # the pickle is a real one


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/none: cannot be read: No such file"):
        TensorFile(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        TensorFile(Path(os.fspath(tmp_path)))
