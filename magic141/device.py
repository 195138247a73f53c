"""Whether this machine has a device that somebody names."""

from magic141.errors import InputError


def check_device(name: str) -> None:
    """Raises InputError unless `name` is a device of this machine that holds numbers."""
    import torch

    try:
        if torch.empty(0, device=name).is_meta:
            raise InputError("device 'meta' holds no numbers: try cpu")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}): try cpu") from error
