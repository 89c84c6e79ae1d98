"""Reads the frame numbers that are burned into three of the real clips.

The glyphs were taken from frames 0 to 9 of each clip after a person had looked at every frame of the three and found
frame i of moviepy_example to show 5 s + i/25 s, frame i of the others to show i.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Digit cells (left, top, right, bottom) in pixels, tens first; ten glyphs as 8 x 10 bits each, rows from the top.
CELLS = {
    "moviepy_example.mp4": [(394, 223, 415, 257), (418, 223, 441, 257)],
    "torchcodec_h264_10bits.mp4": [(84, 22, 92, 32), (92, 22, 100, 32)],
    "torchcodec_h265_video.mp4": [(105, 52, 124, 76)],
}
GLYPHS = {
    "moviepy_example.mp4": [
        "3c66c3c38181c3c3663c",
        "071ff787070707070707",
        "3c63c303030c183060ff",
        "3c4683061e0703c3c73c",
        "040c1c346444ceff0404",
        "7e6040d8e6030383c63c",
        "3c63c088fec3c1c3633c",
        "ff06040c081030302020",
        "3c46c2467cc68383c63c",
        "3cc68383c37f0302c638",
    ],
    "torchcodec_h264_10bits.mp4": [
        "3c66c3c3dbdbc3c3663c",
        "1878f8181818181818ff",
        "7ec303061c3860c0c3ff",
        "7ec303033e030303c37e",
        "061e3e66c6ff0606061f",
        "fec0c0c0fe030303c37e",
        "3c60c0c0fec3c3c3c37e",
        "fec30303061c38383838",
        "7ec3c3c37ec3c3c3c37e",
        "7ec3c3c37f030303067c",
    ],
    "torchcodec_h265_video.mp4": [
        "3c7ec3c1c1c1c1c37e3c",
        "f8f81818181818187eff",
        "7cff0303060c1830feff",
        "fcfe03063c0e0303fefc",
        "0c1c14244444ceff0404",
        "fefec0c0fe070303fefc",
        "1e7e40c0fee3c1417f3e",
        "ffff06040c0818103030",
        "3e7fc3433e7ec3c17f3e",
        "3c7ec3c3c37f03037e7c",
    ],
}
CONTRAST = 60.0  # Less than this between the lightest and the darkest pixel is an empty cell.


def shown_number(clip: str, picture: NDArray[np.uint8]) -> int:
    """The number on a frame of `clip`, [height, width, 3]."""
    light = np.asarray(Image.fromarray(picture).convert("L"), dtype=float)
    bits = [glyph(light[top:bottom, left:right]) for left, top, right, bottom in CELLS[clip]]
    digits = [_nearest(clip, one) for one in bits if one is not None]
    return int("".join(map(str, digits)))


def number_of_frame(clip: str, index: int) -> int:
    """What frame `index` shows."""
    return index % 25 if clip == "moviepy_example.mp4" else index


def glyph(cell: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """The cell's digit, cut out and scaled to [10, 8] bits; None where the cell is empty."""
    if np.ptp(cell) < CONTRAST:
        return None
    ink = cell > (cell.min() + cell.max()) / 2
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    inside = cell[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scaled = np.asarray(Image.fromarray(inside.astype(np.uint8)).resize((8, 10), Image.Resampling.BOX), dtype=float)
    return scaled > (cell.min() + cell.max()) / 2


def _nearest(clip: str, bits: NDArray[np.bool_]) -> int:
    known = [np.unpackbits(np.frombuffer(bytes.fromhex(code), np.uint8)).astype(bool) for code in GLYPHS[clip]]
    return int(np.argmin([np.sum(one != bits.ravel()) for one in known]))
