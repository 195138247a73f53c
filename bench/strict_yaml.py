"""YAML that people write: a key stands once and is a known one, and what is refused is named by its place and value."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bench.errors import SuiteError, nearest


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return data


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """A block that was copied and not renamed would replace the first without a word."""

    def construct_document(self, node: yaml.Node) -> Any:
        # Before anything is constructed: that merges blocks (`<<: *anchor`), whose keys give way to those written out.
        self._check(node, set())
        return super().construct_document(node)

    def _check(self, node: yaml.Node, checked: set[int]) -> None:
        if id(node) in checked or not isinstance(node, yaml.CollectionNode):
            return
        checked.add(id(node))
        seen: set[Hashable] = set()
        for entry in node.value:
            name, value = entry if isinstance(node, yaml.MappingNode) else (None, entry)
            self._check(value, checked)
            if not isinstance(name, yaml.ScalarNode) or name.tag == _MERGE:
                continue
            key = self.construct_object(name)
            if key in seen:
                place = name.start_mark
                raise SuiteError(f"line {place.line + 1} names {key!r} a second time: rename one, or drop it")
            seen.add(key)


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


def refusal(name: str, error: ValidationError) -> SuiteError:
    """What is wrong with the data that messages call `name`, a line each: place, reason and value."""
    lines = [
        ": ".join(filter(None, [name, ".".join(map(str, problem["loc"])), _reason(problem)]))
        for problem in error.errors()
    ]
    return SuiteError("\n".join(lines))


def _reason(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem["input"]
    return (
        message
        if isinstance(given, dict | list) or problem["type"] == "missing"
        else f"{message} (got {given!r})"
    )
