"""Decodes image files into pixels, whichever of Pillow's modes they are stored in.

With eight bits a channel it is clear which value is white. Deeper images (16 bits, 32 bits, floats)
are scaled where the file says which, and refused where it does not.
"""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

ImageShape = tuple[int, int, int]
"""Channels, height and width."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name is. For others, such as EPS, Pillow would start
programs."""
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on damaged files. (Its UnidentifiedImageError is an OSError.)"""
WHITE = 255
SIXTEEN_BITS = 65535
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by the orientation that its EXIF data state."""
_SCALED_FORMATS = ("PNG", "PPM")
"""The formats whose 32-bit integers Pillow itself has scaled to 16 bits."""


def decode(path: str, image_shape: ImageShape) -> np.ndarray:
    """Read the pixels of an image file: float32 [H, W, C], from 0 (black) to 255 (white).

    The image is turned upright where its EXIF data say that the camera was not, resized until its
    shorter side fits, and the centre is cut out. Transparency is ignored: colours are taken as they
    are stored.

    Raises:
        one of UNREADABLE: the file is damaged, or does not say which value is white.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    with Image.open(path, formats=FORMATS) as image:
        turn = _UPRIGHT.get(_orientation(image))
        # JPEG can decode to a smaller size at once (no smaller than this), which is much faster.
        image.draft(mode, (max(width, height),) * 2 if turn else (width, height))
        deep = image.mode == "F" or image.mode.startswith("I")
        converted = Image.fromarray(_shades(image)) if deep else _eight_bits(image, mode)
    upright = converted if turn is None else converted.transpose(turn)
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted, dtype=np.float32).reshape(height, width, -1)
    return np.broadcast_to(pixels, (height, width, channels))


def _orientation(image: Image.Image) -> int:
    """The orientation that an image's EXIF data state; 1, upright, where they state none.

    Pillow itself turns TIFF files upright.
    """
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:  # damaged EXIF data say nothing, and the pixels may still be good
        return 1


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to `mode`: "L" (grey) or "RGB", with eight bits a channel."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way
    if image.mode == "LAB":
        image = image.convert("RGB")  # there is no direct way to grey
    return image.convert(mode)


def _shades(image: Image.Image) -> np.ndarray:
    """The grey pixels of an image with more than eight bits: float32 [H, W], from 0 to 255."""
    values = np.asarray(image).astype(np.float64)
    shades = values * (WHITE / _white(image, values))
    if _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, default=1) == 0:
        shades = WHITE - shades  # in this file 0 is white
    return shades.astype(np.float32)


def _white(image: Image.Image, values: np.ndarray) -> float:
    """The value of white in an image in which 0 is black.

    Raises:
        ValueError: nothing says which value it is.
    """
    if not np.isfinite(values).all():
        raise ValueError("some of its pixels are NaN or infinite")
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        if lowest < 0 or highest > 1:
            raise ValueError(
                f"its pixels are floats from {lowest:g} to {highest:g}, and only floats from 0 "
                "(black) to 1 (white) say what is white; scale them, or store 8 or 16 bits"
            )
        return 1
    if image.mode != "I":
        bits = _tag(image, TiffImagePlugin.BITSPERSAMPLE, default=16)
        return float(2**bits - 1)
    # Values that need 16 bits are taken to have 16. Smaller values may have 8 or 16: who knows?
    needs_sixteen_bits = lowest >= 0 and (highest == 0 or WHITE < highest <= SIXTEEN_BITS)
    if image.format not in _SCALED_FORMATS and not needs_sixteen_bits:
        raise ValueError(
            f"its pixels are 32-bit integers from {lowest:g} to {highest:g}, which do not say what "
            "is white; store 8 or 16 bits"
        )
    return SIXTEEN_BITS


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A number that only TIFF files state, or `default`.

    Where the file states it for every channel, it is that of the first.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return default
    value = image.tag_v2.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
