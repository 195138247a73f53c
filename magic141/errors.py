"""Typed errors: what a caller can catch, and what the command lines print without a traceback."""


class Magic141Error(Exception):
    """Base of every error that this package raises on purpose. Doors print it and exit with code 2."""


class InputError(Magic141Error, ValueError):
    """An argument is out of range; the message names the value, the limit and the remedy."""


class WeightsMissing(Magic141Error, FileNotFoundError):
    """A weights file is in none of the places searched; the message lists them."""


class WeightsCorrupt(Magic141Error):
    """A weights file exists, but its sha256 is not the recorded one, or it does not fit the config beside it."""


class TrainingDiverged(Magic141Error):
    """Losses or gradients are no numbers any more; the last checkpoint is from before."""


class UnsupportedError(Magic141Error):
    """This machine, what is installed on it, or a system cannot do what was asked: the bench's `unsupported`."""
