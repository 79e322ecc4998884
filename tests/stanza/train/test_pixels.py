"""Every mode that Pillow opens gives the pixels that numpy computes, or says why it cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from stanza.train.data import open_data
from stanza.train.pixels import decode

SIDE = 16
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
"""Shades from black to white."""
COLOURS = np.stack([RAMP, RAMP.T, 1 - RAMP], axis=2)
BYTES = (COLOURS * 255).round().astype(np.uint8)
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(shades: np.ndarray) -> np.ndarray:
    return np.repeat(shades[..., None], 3, axis=2)


def saved(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> None:
    """Write the array; with a mode, as the bytes of an image of that mode."""
    if mode is None:
        image = Image.fromarray(array)
    else:
        image = Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes())
    image.save(path, **options)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, BYTES[..., :1]], axis=2)


def palette_image() -> Image.Image:
    """256 colours, of which some are transparent."""
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE), "P")
    image.putpalette(BYTES.reshape(-1, 3).tobytes())
    return image


def of_cmyk(ink: np.ndarray) -> np.ndarray:
    light = 255.0 - ink
    return light[..., :3] * light[..., 3:] / 255


def of_ycbcr(values: np.ndarray) -> np.ndarray:
    """JFIF's definition."""
    y, cb, cr = np.moveaxis(values.astype(float), 2, 0) - np.array([0, 128, 128])[:, None, None]
    rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    return np.stack(rgb, axis=2).clip(0, 255)


def of_lightness(lightness: np.ndarray) -> np.ndarray:
    """sRGB's shades of L* in 0 to 255, for neutral colours."""
    scaled = lightness / 255 * 100
    linear = np.where(scaled > 8, ((scaled + 16) / 116) ** 3, scaled / 903.3)
    low = 12.92 * linear
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, low)


CMYK = np.concatenate([BYTES, BYTES[::-1, :, :1]], axis=2)
YCBCR = np.stack(
    [60 + BYTES[..., 0] // 2, 96 + BYTES[..., 1] // 4, 112 + BYTES[..., 2] // 8], axis=2
)
LAB = np.concatenate(
    [BYTES[..., :1], np.zeros((SIDE, SIDE, 2), np.uint8)], axis=2
)  # neutral: a* = b* = 0
SIXTEEN = (RAMP * 65535).round()

Write = Callable[[Path], object]
READABLE: dict[str, tuple[str, Write, np.ndarray]] = {
    "1": ("png", lambda p: saved(p, RAMP > 0.5), grey(255 * (RAMP > 0.5))),
    "L": ("png", lambda p: saved(p, BYTES[..., 0]), grey(BYTES[..., 0])),
    "LA": (
        "png",
        lambda p: saved(p, np.stack([BYTES[..., 0], BYTES[..., 1]], axis=2), "LA"),
        grey(BYTES[..., 0]),
    ),
    "P": ("png", lambda p: palette_image().save(p), BYTES),
    "P, one transparent colour": ("gif", lambda p: palette_image().save(p, transparency=3), BYTES),
    "P, transparency by colour": (
        "png",
        lambda p: palette_image().save(p, transparency=bytes(range(256))),
        BYTES,
    ),
    "RGB": ("png", lambda p: saved(p, BYTES), BYTES),
    "RGB, one transparent colour": (
        "png",
        lambda p: Image.fromarray(BYTES).save(p, transparency=(0, 0, 255)),
        BYTES,
    ),
    "RGBA": ("png", lambda p: saved(p, with_alpha(BYTES), "RGBA"), BYTES),
    "CMYK": ("tif", lambda p: saved(p, CMYK, "CMYK"), of_cmyk(CMYK)),
    "YCbCr": ("tif", lambda p: saved(p, YCBCR, "YCbCr"), of_ycbcr(YCBCR)),
    "LAB": ("tif", lambda p: saved(p, LAB, "LAB"), grey(of_lightness(LAB[..., 0]))),
    "I;16 in PNG": ("png", lambda p: saved(p, SIXTEEN.astype(np.uint16)), grey(255 * RAMP)),
    "I;16 in TIFF": ("tif", lambda p: saved(p, SIXTEEN.astype("<u2"), "I;16"), grey(255 * RAMP)),
    "I;16L": ("tif", lambda p: saved(p, SIXTEEN.astype("<u2"), "I;16L"), grey(255 * RAMP)),
    "I;16B": ("tif", lambda p: saved(p, SIXTEEN.astype(">u2"), "I;16B"), grey(255 * RAMP)),
    "I;16, 0 is white": (
        "tif",
        lambda p: saved(
            p,
            SIXTEEN.astype("<u2"),
            "I;16",
            tiffinfo={TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0},
        ),
        grey(255 * (1 - RAMP)),
    ),
    "I in TIFF": ("tif", lambda p: saved(p, SIXTEEN.astype(np.int32)), grey(255 * RAMP)),
    "I in PPM": (
        "ppm",
        lambda p: p.write_bytes(b"P5 16 16 65535 " + SIXTEEN.astype(">u2").tobytes()),
        grey(255 * RAMP),
    ),
    "I in a dark PPM": (
        "ppm",
        lambda p: (
            p.write_bytes(b"P5 16 16 65535 " + (SIXTEEN / 512).astype(">u2").tobytes()) and None
        ),
        grey(RAMP / 2),
    ),
    "I, all black": (
        "tif",
        lambda p: saved(p, np.zeros((SIDE, SIDE), np.int32)),
        np.zeros((SIDE, SIDE, 3)),
    ),
    "F": ("tif", lambda p: saved(p, RAMP.astype(np.float32)), grey(255 * RAMP)),
}
"""Modes: how a file gets them, and the pixels that numpy computes for it."""


@pytest.mark.parametrize("mode", READABLE)
def test_pixels_are_those_that_numpy_computes(tmp_path: Path, mode: str) -> None:
    suffix, write, expected = READABLE[mode]
    path = tmp_path / f"image.{suffix}"
    write(path)
    with Image.open(path) as image:
        wanted = mode.split()[0].rstrip(",")
        assert image.mode == wanted or {image.mode, wanted} == {"I;16", "I;16L"}
    pixels = decode(str(path), (3, SIDE, SIDE))
    assert (pixels.shape, pixels.dtype) == ((SIDE, SIDE, 3), np.float32)
    tolerance = {"CMYK": 1.5, "YCbCr": 2, "LAB": 2}.get(wanted, 0.51)
    np.testing.assert_allclose(pixels, expected, atol=tolerance)
    one = decode(str(path), (1, SIDE, SIDE))
    assert one.shape == (SIDE, SIDE, 1)
    np.testing.assert_allclose(one[..., 0], expected @ GREY_WEIGHTS, atol=tolerance + 1)


def with_one(value: float) -> np.ndarray:
    shades = RAMP.astype(np.float32)
    shades[3, 4] = value
    return shades


UNKNOWN: dict[str, tuple[np.ndarray, str]] = {
    "NaN": (with_one(np.nan), "NaN or infinite"),
    "infinity": (with_one(np.inf), "NaN or infinite"),
    "floats to 255": ((255 * RAMP).astype(np.float32), "floats from 0 to 255"),
    "floats below 0": ((RAMP - 0.5).astype(np.float32), "floats from -0.5 to 0.5"),
    "32 bits": ((RAMP * (2**31 - 1)).astype(np.int32), "32-bit integers from 0 to 2.14748e+09"),
    "8 bits in 32": (BYTES[..., 0].astype(np.int32), "32-bit integers from 0 to 255"),
    "below 0": ((SIXTEEN - 9).astype(np.int32), "32-bit integers from -9"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_does_not_say_its_white_is_listed_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pixels, reason = UNKNOWN[name]
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        saved(tmp_path / split / "a" / "0.tif", pixels)
        saved(tmp_path / split / "a" / "1.png", BYTES)
    data = open_data(f"folder:{tmp_path}", image_shape=(3, SIDE, SIDE), classes=1)
    images, _ = data.train.batch([0, 1])
    assert (images[0] == images[1]).all()  # the next one in its place
    assert data.corrupt == [tmp_path / "train" / "a" / "0.tif"]
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "0.tif" in line


def test_a_sixteen_bit_ramp_is_the_same_as_one_of_eight_bits(tmp_path: Path) -> None:
    """Also where it is resized and cut."""
    ramp = np.linspace(0, 65535, 64 * 48).reshape(64, 48)
    saved(tmp_path / "16.png", ramp.astype(np.uint16))
    saved(tmp_path / "8.png", (ramp / 257).round().astype(np.uint8))
    deep, flat = (decode(str(tmp_path / f"{bits}.png"), (1, 8, 8)) for bits in (16, 8))
    np.testing.assert_allclose(deep, flat, atol=1)


@pytest.mark.parametrize("bits", [12, 16])
def test_white_of_a_tiff_is_what_its_bits_hold(tmp_path: Path, bits: int) -> None:
    """Two pixels, black and white, in a file written by hand: Pillow does not write 12 bits."""
    packed = {12: b"\x00\x0f\xff", 16: b"\x00\x00\xff\xff"}[bits]
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(packed))]
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00" + value.to_bytes(4, "little")
        for tag, value in tags
    )
    start = 8 + len(packed) + len(packed) % 2
    header = b"II*\x00" + start.to_bytes(4, "little") + packed.ljust(start - 8, b"\x00")
    path = tmp_path / "image.tif"
    path.write_bytes(header + len(tags).to_bytes(2, "little") + entries + bytes(4))
    assert decode(str(path), (1, 1, 2)).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_images_are_upright_whatever_the_camera_was(
    suffix: str, orientation: int, tmp_path: Path
) -> None:
    """An orientation states where the first row and the first column of the file belong."""
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :12] = 255  # light in the upper left quarter,
    upright[:8, 12:] = 128  # grey in the upper right
    rows = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[orientation]
    stored = upright.T if rows[0] in "lr" else upright  # first row: the upright's left or right
    vertical = rows[0] if rows[0] in "tb" else rows[1]
    horizontal = rows[1] if rows[0] in "tb" else rows[0]
    axes = (1, 0) if rows[0] in "lr" else (0, 1)  # of the upright's rows and columns
    stored = np.flip(stored, axes[0]) if vertical == "b" else stored
    stored = np.flip(stored, axes[1]) if horizontal == "r" else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif, **options)
    pixels = decode(str(path), (1, 16, 24))[..., 0]
    assert np.abs(pixels - upright).mean() < 3


def test_damaged_exif_data_leave_the_pixels_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(BYTES).save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    assert np.array_equal(decode(str(path), (3, SIDE, SIDE)), BYTES)
    Image.fromarray(BYTES).save(path, exif=b"Exif\x00\x00no such data")
    assert np.array_equal(decode(str(path), (3, SIDE, SIDE)), BYTES)
