"""The tiny world: scenes of two events, their questions, their true answers, and how they look.

A scene shows one shape for its first second and another for its second one. Each has a colour and an action, so order,
motion, colour and shape can be asked, and every answer is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 40, 40),
    "green": (40, 220, 40),
    "blue": (60, 80, 255),
    "yellow": (240, 230, 40),
    "purple": (190, 40, 220),
    "cyan": (40, 220, 220),
}
SHAPES = ("circle", "square", "triangle", "cross")
ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
ORDINALS = ("first", "second")

# What a model that looks too little would guess: the action that the shape suggests. The SFT answers repeat it.
ACTION_PRIOR = {"circle": "moves left", "square": "grows", "triangle": "moves up", "cross": "shrinks"}

FPS = 8
FRAMES_PER_EVENT = 8
SIZE = 64  # pixels. Rendered at twice the model's 32, so that 4:2:0 chroma costs no colour.


@dataclass(frozen=True)
class Event:
    """One shape and what it does."""

    color: str
    shape: str
    action: str

    def __str__(self) -> str:
        return f"a {self.color} {self.shape} {self.action}"


@dataclass(frozen=True)
class Scene:
    """Two events in order, and the seed of everything that no question asks about (place, size, speed)."""

    events: tuple[Event, Event]
    seed: int


@dataclass(frozen=True)
class Question:
    """A kind of question about one event (0 or 1), or about the whole video."""

    kind: str
    event: int = 0

    @property
    def text(self) -> str:
        order = ORDINALS[self.event]
        return {
            "color": f"what color is the {order} shape?",
            "shape": f"what is the {order} shape?",
            "action": f"what does the {order} shape do?",
            "event": f"what happens {order}?",
            "describe": "describe the video.",
            "clip": "describe the clip.",
        }[self.kind]

    def answer(self, scene: Scene) -> str:
        """The true answer for this scene."""
        event = scene.events[self.event]
        return {
            "color": f"it is {event.color}.",
            "shape": f"it is a {event.shape}.",
            "action": f"it {event.action}.",
            "event": f"{event}.",
            "describe": f"first {scene.events[0]}. then {scene.events[1]}.",
            "clip": f"{event}.",
        }[self.kind]


QUESTIONS = (
    *(Question(kind, event) for kind in ("color", "shape", "action", "event") for event in (0, 1)),
    Question("describe"),
)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A scene with every slot drawn uniformly."""
    events = [
        Event(
            color=str(rng.choice(list(COLORS))),
            shape=str(rng.choice(SHAPES)),
            action=str(rng.choice(ACTIONS)),
        )
        for _ in ORDINALS
    ]
    return Scene((events[0], events[1]), seed=int(rng.integers(1 << 31)))


def hallucinate(
    scene: Scene,
    rng: np.random.Generator,
    *,
    action_prior: float,
    color_noise: float,
    shape_noise: float,
) -> Scene:
    """The scene as a model with strong language priors would report it.

    Args:
        scene: what is really shown.
        rng: source of the mistakes.
        action_prior: probability that an action is replaced by the one its shape suggests (ACTION_PRIOR).
        color_noise: probability that a colour is replaced by a random one.
        shape_noise: probability that a shape is replaced by a random one, after the action was chosen.
    """

    def mistake(event: Event) -> Event:
        if rng.random() < action_prior:
            event = replace(event, action=ACTION_PRIOR[event.shape])
        if rng.random() < color_noise:
            event = replace(event, color=str(rng.choice(list(COLORS))))
        if rng.random() < shape_noise:
            event = replace(event, shape=str(rng.choice(SHAPES)))
        return event

    return replace(scene, events=(mistake(scene.events[0]), mistake(scene.events[1])))


def render(scene: Scene) -> Frames:
    """Draw a scene.

    Returns:
        uint8 frames [16, SIZE, SIZE, 3], RGB, FPS frames a second.
    """
    rng = np.random.default_rng(scene.seed)
    background = rng.integers(0, 40, 3).astype(np.uint8)
    frames = np.broadcast_to(background, (2 * FRAMES_PER_EVENT, SIZE, SIZE, 3)).copy()
    for index, event in enumerate(scene.events):
        start = index * FRAMES_PER_EVENT
        _draw_event(frames[start : start + FRAMES_PER_EVENT], event, rng)
    return frames


def _draw_event(frames: Frames, event: Event, rng: np.random.Generator) -> None:
    scale = SIZE / 32
    radius = rng.uniform(5.0, 7.0) * scale
    center = rng.uniform(12, 20, size=2) * scale
    speed = rng.uniform(1.2, 1.7) * scale
    color = np.array(COLORS[event.color], dtype=np.uint8)
    for step, frame in enumerate(frames):
        moved, grown = _motion(event.action, step - (FRAMES_PER_EVENT - 1) / 2)
        x, y = center + np.array(moved) * speed
        frame[_mask(event.shape, x, y, radius * grown)] = color


def _motion(action: str, time: float) -> tuple[tuple[float, float], float]:
    """Displacement in units of speed and growth factor of the radius, `time` frames from the event's middle."""
    return {
        "moves left": ((-time, 0.0), 1.0),
        "moves right": ((time, 0.0), 1.0),
        "moves up": ((0.0, -time), 1.0),
        "moves down": ((0.0, time), 1.0),
        "grows": ((0.0, 0.0), 1 + 0.14 * time),
        "shrinks": ((0.0, 0.0), 1 - 0.14 * time),
    }[action]


def _mask(shape: str, x: float, y: float, radius: float) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    dx, dy = np.abs(columns - x), rows - y
    if shape == "circle":
        return np.asarray(dx**2 + dy**2 <= radius**2)
    if shape == "square":
        return np.asarray((dx <= 0.85 * radius) & (np.abs(dy) <= 0.85 * radius))
    if shape == "triangle":
        return np.asarray((dy <= 0.8 * radius) & (dy >= -radius) & (dx <= 0.6 * (dy + radius)))
    arm = 0.35 * radius
    return np.asarray(((dx <= arm) & (np.abs(dy) <= radius)) | ((np.abs(dy) <= arm) & (dx <= radius)))
