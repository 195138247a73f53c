"""What the known scores and stages mean, in a few words. Unknown names are shown as they are."""

from __future__ import annotations

METRICS = {
    "fvd-world": "Fréchet distance from generated to true clips, less what truth has against truth",
    "kvd-world": "kernel distance from generated to true clips, unbiased at any n",
    "accuracy-mean": "share of the caption's attributes that the judge reads off the clip",
    "motion-ratio": "speed of the subject over its true speed",
    "first-frame-psnr": "how closely frame 0 keeps the image it was to start from",
    "flickering": "VBench's temporal flickering: a still picture scores 1, so read it beside motion",
    "clip-world": "similarity of frames and caption by the lab's own CLIP, which is blind to their order",
    "flow-ratio": "optical flow over that of the rendered truth",
    "oracle-found": "share of frames with a subject",
    "oracle-colour": "share of frames whose subject has the asked colour",
    "oracle-shape": "overlap of the subject with the asked shape",
    "oracle-count": "share of frames with exactly one object of the asked colour",
    "oracle-tracking-error": "distance of the subject from the nearest path of the asked law",
    "oracle-direction-error": "angle between the said direction and the subject's",
    "oracle-speed-variation": "spread of the subject's speed where the law asks for one speed",
    "oracle-bounce-error": "how far a bounce is from a mirror's; 1 sticks to the wall, 2 goes through",
    "oracle-colour-drift": "change of the subject's colour from its first; a still picture has none",
    "oracle-size-drift": "change of the subject's size from its first; a still picture has none",
    "oracle-shape-drift": "change of the subject's shape from its first; a still picture has none",
    "oracle-background-change": "change of the background where nothing there should move",
}
"""In the order in which a reader wants them."""

ATTRIBUTE = "accuracy-"


def order(name: str) -> int:
    """Known scores first, then the others as recorded."""
    known = list(METRICS)
    return known.index(name) if name in known else len(known)


def meaning(name: str) -> str:
    """One phrase, empty for an unknown score."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith(ATTRIBUTE):
        return f"share of clips whose {name.removeprefix(ATTRIBUTE)} the judge reads right"
    return ""
