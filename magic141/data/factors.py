"""The values that each factor of a lab scene can take; labels are indices into these tuples."""

FRAME_SIZE = 64
FPS = 16

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
BACKGROUNDS = ("solid", "gradient", "stripes", "checker", "speckle")
TONES = ("dark", "pale")
HUES = ("grey", "blue", "green", "brown")
TEXTURES = ("none", "snow", "rain", "ripples", "clouds", "shimmer", "swarm")
MOTIONS = ("drift", "orbit", "zigzag", "pulse", "still")
DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")
CAMERAS = ("static", "pan")

RADII = (7.0, 11.0)
"""Pixels, by size index."""

HELD_OUT = (("purple", "cross"), ("cyan", "star"), ("green", "square"), ("orange", "triangle"))
"""(colour, shape) pairs that only the compositional split shows."""
