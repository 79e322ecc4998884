"""Image files to pixels, in whichever of Pillow's modes they are stored.

Eight bits a channel say what is black and what is white. Deeper images (16 bits, 32 bits, floats)
are scaled where the file says how, and refused where nobody can know.
"""

import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

ImageShape = tuple[int, int, int]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name is: for others, such as EPS, Pillow starts programs."""
# What Pillow raises on damaged files; UnidentifiedImageError is an OSError.
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
WHITE = 255
SIXTEEN_BITS = 65535
# Formats whose 32-bit integers Pillow itself has scaled to 16 bits.
_SCALED_FORMATS = ("PNG", "PPM")


def decode(path: str, image_shape: ImageShape) -> np.ndarray:
    """Pixels float32 [H, W, C] of an image file, 0 (black) to 255 (white).

    The shorter side is resized to fit, then the centre is cut out. Colours are taken as they are
    stored: transparency is ignored.

    Raises one of UNREADABLE if the file is damaged, or if it does not say what is white.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    with Image.open(path, formats=FORMATS) as image:
        # JPEG can decode straight to a smaller size, no smaller than this: much faster.
        image.draft(mode, (width, height))
        deep = image.mode == "F" or image.mode.startswith("I")
        converted = Image.fromarray(_shades(image)) if deep else _eight_bits(image, mode)
    fitted = ImageOps.fit(converted, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted, dtype=np.float32).reshape(height, width, -1)
    return np.broadcast_to(pixels, (height, width, channels))


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way
    if image.mode == "LAB":
        image = image.convert("RGB")  # there is no direct way to grey
    return image.convert(mode)


def _shades(image: Image.Image) -> np.ndarray:
    """Grey pixels float32 [H, W], 0 to 255, of an image with more than eight bits."""
    values = np.asarray(image).astype(np.float64)
    shades = values * (WHITE / _white(image, values))
    if _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, default=1) == 0:
        shades = WHITE - shades  # in this file 0 is white
    return shades.astype(np.float32)


def _white(image: Image.Image, values: np.ndarray) -> float:
    """The value that is white; 0 is black."""
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
    # Values that need 16 bits are taken to have 16 bits. Smaller ones may as well have 8.
    needs_sixteen_bits = lowest >= 0 and (highest == 0 or WHITE < highest <= SIXTEEN_BITS)
    if image.format not in _SCALED_FORMATS and not needs_sixteen_bits:
        raise ValueError(
            f"its pixels are 32-bit integers from {lowest:g} to {highest:g}, which do not say what "
            "is white; store 8 or 16 bits"
        )
    return SIXTEEN_BITS


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A number that only TIFF files state; the first of them if there is one for every channel."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return default
    value = image.tag_v2.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
