"""What the fork server imports, once for all cells: importing this module imports those that the environment names.

The server itself would die of an import that raises anything but ImportError, and every system of the run with it. Here
such a module is passed over: the cell that needs it meets the error again, and records it.
"""

from __future__ import annotations

import contextlib
import importlib
import os

VARIABLE = "MAGIC141_PRELOAD"

for _name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
    with contextlib.suppress(Exception, SystemExit):
        importlib.import_module(_name)
