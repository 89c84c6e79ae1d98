"""What an eye that knows nothing of the renderer reads off the frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miniature.world import Event, Frames

# By name and by hand: the colours as a person would call them, whether or not the renderer mixes them so.
PURE = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (180, 0, 200),
    "cyan": (0, 255, 255),
}


@dataclass(frozen=True)
class _Thing:
    """The figure in one frame."""

    color: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, frame: Frames) -> _Thing:
        # Half-way from the ground, which fills the corner, to the brightest of the figure: a codec blurs edges alike.
        light = frame.max(axis=-1).astype(np.float64)
        mask = light > (light[0, 0] + light.max()) / 2
        return cls(np.median(frame[mask], axis=0), mask)

    @property
    def place(self) -> npt.NDArray[np.float64]:
        rows, columns = np.nonzero(self.mask)
        return np.array([columns.mean(), rows.mean()])

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    @property
    def shape(self) -> str:
        rows, columns = np.nonzero(self.mask)
        box = self.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        quarter = len(box) // 4
        if box.mean() > 0.93:
            return "square"
        if box[-quarter:].mean() > 0.5 + box[:quarter].mean():
            return "triangle"
        # The middle of a quadrant belongs to a disc and not to a cross.
        corner = box[len(box) // 5, box.shape[1] // 5]
        return "circle" if corner else "cross"


def seen(frames: Frames) -> Event:
    """The event that some frames of one figure show."""
    things = [_Thing.of(frame) for frame in frames]
    middle = things[len(things) // 2]
    hue = middle.color / np.linalg.norm(middle.color)
    color = max(PURE, key=lambda name: hue @ (np.array(PURE[name]) / np.linalg.norm(PURE[name])))
    return Event(color, middle.shape, _action(things))


def _action(things: list[_Thing]) -> str:
    grown = things[-1].area / things[0].area
    if grown > 1.5:
        return "grows"
    if grown < 1 / 1.5:
        return "shrinks"
    right, down = things[-1].place - things[0].place
    if abs(right) > abs(down):
        return "moves right" if right > 0 else "moves left"
    return "moves down" if down > 0 else "moves up"
