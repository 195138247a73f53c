"""Captions of scenes: a closed grammar whose synonyms are drawn from the scene's seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magic141.data import factors
from magic141.data.motion import heading

if TYPE_CHECKING:
    from magic141.data.world import Scene

_SIZE = (("small", "little"), ("large", "big"))
_LAW = {
    "drift": ("drifting", "moving", "gliding"),
    "orbit": ("orbiting", "circling"),
    "zigzag": ("zigzagging",),
    "pulse": ("pulsing", "throbbing"),
    "still": ("resting", "standing still"),
}
_GROUND = {
    "solid": ("a {} background", "a plain {} background"),
    "gradient": ("a {} gradient",),
    "stripes": ("{} stripes",),
    "checker": ("a {} checker", "a {} checkerboard"),
    "speckle": ("{} speckle",),
}
_TEXTURE = {
    "none": ("",),
    "snow": ("in falling snow", "in snow"),
    "rain": ("in falling rain", "in rain"),
    "ripples": ("with spreading ripples", "with ripples"),
    "clouds": ("under drifting clouds", "with clouds"),
    "shimmer": ("with shimmering grain", "with shimmer"),
    "swarm": ("among swarming dots", "in a swarm"),
}
_PAN = ("while the camera pans", "with a panning camera")
_PACE = ("slowly", "steadily", "quickly")
_ANGLE = ("vertical", "tilted", "horizontal", "tilted")
_EXTRA = ("a", "the", "over", "left", "right", "down")
_STATING = "from top middle bottom across then turning clockwise anticlockwise later joined by"


def _words() -> tuple[str, ...]:
    phrases = [
        *_SIZE[0],
        *_SIZE[1],
        *_PAN,
        *_PACE,
        *_ANGLE,
        *factors.SHAPES,
        *factors.COLOURS,
        *factors.TONES,
        *factors.HUES,
        *factors.DIRECTIONS,
        *_EXTRA,
        _STATING,
    ]
    for table in (_LAW, _GROUND, _TEXTURE):
        phrases += [phrase.replace("{}", "") for options in table.values() for phrase in options]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


VOCABULARY = _words()
"""Every word that a caption can use."""
STATING = frozenset((*_STATING.split(), *_PACE, *_ANGLE))
"""Words that no caption has unless it states hidden factors. The shipped weights were never taught them."""


def describe(scene: Scene, start: int) -> str:
    """The caption of the clip of `scene` that begins at frame `start`."""
    seed = scene.seed

    def pick(options: tuple[str, ...]) -> str:
        nonlocal seed
        seed = (seed * 1103515245 + 12345) % 2**31
        return options[(seed >> 8) % len(options)]

    subject, backdrop, motion = scene.subject, scene.backdrop, scene.motion
    words = [
        f"a {pick(_SIZE[subject.size])} {factors.COLOURS[subject.colour]} {factors.SHAPES[subject.shape]}"
    ]
    if scene.terse:
        return words[0]
    words.append(pick(_LAW[motion.name]))
    truth = scene.truth(2, start)
    if motion.name == "drift" and scene.direction_said:
        words.append(factors.DIRECTIONS[heading(truth.velocity[0, 0])])
    if "path" in scene.stated and motion.name == "orbit":
        words.append("clockwise" if motion.period > 0 else "anticlockwise")
    if "path" in scene.stated and motion.name == "zigzag":
        words.append("across" if motion.direction % 4 == 0 else "down")
    if "speed" in scene.stated and motion.speed:
        words.append(_PACE[min(int((motion.speed - 0.45) / 0.85 * 3), 2)])
    if "place" in scene.stated:
        x, y = (min(int(c / factors.FRAME_SIZE * 3), 2) for c in truth.positions[0, 0])
        words.append(f"from the {('top', 'middle', 'bottom')[y]} {('left', 'middle', 'right')[x]}")
    if "turn" in scene.stated and motion.turn_every:
        words.append("then turning")
    hue = factors.HUES[backdrop.hue]
    tint = factors.TONES[backdrop.tone] + pick(("", " grey") if hue == "grey" else (f" {hue}",))
    if "angle" in scene.stated and factors.BACKGROUNDS[backdrop.kind] in ("stripes", "gradient"):
        tint = f"{_ANGLE[round(backdrop.angle / (0.25 * 3.14159)) % 4]} {tint}"
    words.append("over " + pick(_GROUND[factors.BACKGROUNDS[backdrop.kind]]).format(tint))
    words.append(pick(_TEXTURE[factors.TEXTURES[scene.texture.kind]]))
    if scene.pan != (0.0, 0.0):
        words.append(pick(_PAN))
    if "late" in scene.stated and scene.late is not None:
        late = scene.late
        words.append(
            f"later joined by a {pick(_SIZE[late.size])} {factors.COLOURS[late.colour]} {factors.SHAPES[late.shape]}"
        )
    return " ".join(word for word in words if word)
