"""Magic 1-For-1 (arXiv 2502.07701): text -> image -> video with weights trained by this package's own code.

    from magic141 import Magic141Pipeline
    pipe = Magic141Pipeline.from_pretrained("lab")

Importing the package is light: PyTorch comes with the first class that is asked for.
"""

from importlib import import_module
from logging import LogRecord, getLogger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magic141.autoencoder import AutoencoderMagic141
    from magic141.pipeline import Magic141Pipeline
    from magic141.scheduler import FlowMatchScheduler
    from magic141.transformer import Magic141Transformer3DModel

__version__ = "0.1.0"
__all__ = [
    "AutoencoderMagic141",
    "FlowMatchScheduler",
    "Magic141Pipeline",
    "Magic141Transformer3DModel",
]

_MODULES = {
    "AutoencoderMagic141": "magic141.autoencoder",
    "FlowMatchScheduler": "magic141.scheduler",
    "Magic141Pipeline": "magic141.pipeline",
    "Magic141Transformer3DModel": "magic141.transformer",
}


def _says_what_users_can_mend(record: LogRecord) -> bool:
    return not any(words in record.getMessage() for words in ("Enum subclass", "Unable to import `torchao`"))


# Where torchao is installed, diffusers imports it, and three lines about their inner workings greet every start.
for _name in ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    getLogger(_name).addFilter(_says_what_users_can_mend)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
