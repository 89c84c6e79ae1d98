"""Makes small videos whose frames say their own number, in bits, and reads the number back from a picture."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS, BLOCK, HEIGHT = 10, 16, 48
WIDTH = BITS * BLOCK


def picture(number: int) -> NDArray[np.uint8]:
    """[48, 160, 3]: the number's bits as white and black blocks in the upper half, the lowest at the left."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(BITS):
        image[:24, bit * BLOCK : (bit + 1) * BLOCK] = 235 if number >> bit & 1 else 20
    return image


def number_in(shown: NDArray[np.uint8]) -> int:
    """The number in a picture that stands upright."""
    assert shown.shape == (HEIGHT, WIDTH, 3), f"not upright: {shown.shape}"
    assert abs(int(shown[36].mean()) - 90) < 12, "not upright: the lower half is not grey"
    lights = shown[12, BLOCK // 2 :: BLOCK].mean(axis=1) > 128
    return int(sum(1 << bit for bit, lit in enumerate(lights) if lit))


def film(
    path: Path,
    frames: int = 60,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 10,
    stamps_ms: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """Writes a video; `stamps_ms` makes the frame rate variable, `rotation` stores it turned and tags it."""
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        turned = np.rot90(picture(0), -round(rotation / 90))
        stream.height, stream.width, stream.pix_fmt = turned.shape[0], turned.shape[1], pixels
        if stamps_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for packet in _packets(stream, frames, rotation, stamps_ms):
            container.mux(packet)
    return path


def _packets(stream: Any, frames: int, rotation: int, stamps_ms: Sequence[int] | None) -> Iterator[Any]:
    for number in range(frames):
        image = np.ascontiguousarray(np.rot90(picture(number), -round(rotation / 90)))
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if stamps_ms is not None:
            frame.pts, frame.time_base = stamps_ms[number], Fraction(1, 1000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def trimmed_by_edit_list(source: Path, path: Path, first: int, fps: int = 10) -> Path:
    """A copy whose edit list hides the frames before `first`, as a trim without re-encoding writes it."""
    with av.open(str(source)) as given, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as copy:
        stream = given.streams.video[0]
        twin = copy.add_stream_from_template(stream)
        shift = round(first / fps / stream.time_base)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, twin
                copy.mux(packet)
    return path
