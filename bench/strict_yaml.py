"""YAML in which a key stands once: a block that was copied and not renamed would replace the first without a word."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from bench.errors import SuiteError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for name, _ in node.value:
            key = self.construct_object(name, deep=True)
            if isinstance(key, Hashable) and key in seen:
                place = name.start_mark
                raise SuiteError(f"line {place.line + 1} names {key!r} a second time: rename one, or drop it")
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path, kind: str) -> Any:
    """The data in a file; `kind` is what messages call it. Raises SuiteError."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{kind} {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{kind} {path} is not YAML: {error}") from error
    except SuiteError as error:
        raise SuiteError(f"{kind} {path}: {error}") from error
