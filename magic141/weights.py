"""Where weights come from, and the proof that they are the ones that were sealed. Imports no torch.

A weights folder is a diffusers pipeline folder (`model_index.json` and one folder a component) with a
`SHA256SUMS` beside them, in the format of `sha256sum`. It covers every file but itself and the model card.
"""

import difflib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tokenizers import Tokenizer

from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

PRESETS = ("lab",)
SHIPPED = Path(__file__).parent / "weights"
DIRECTORY_VARIABLE = "MAGIC141_WEIGHTS"
INDEX = "model_index.json"
SUMS = "SHA256SUMS"
SHARED = "shared.json"
"""In a folder that takes parts from another preset: its name, and the sha256 of each of their files."""
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")
"""Of diffusers' `from_pretrained`: which version of a repository, and how it may be had."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def resolve(name_or_path: str | os.PathLike[str], hub: Mapping[str, Any] | None = None) -> Path:
    """The folder of a preset (`lab`), of a diffusers folder, or of a hub repository (`owner/name`), verified.

    Searched in this order: an explicit path, the directory that `MAGIC141_WEIGHTS` names, the shipped
    weights, the Hugging Face cache, the hub. A bare name is a preset; the folder of that name is `./name`.
    `hub` has `HUB_ARGUMENTS` for the last two.

    Raises:
        InputError: the name is no preset, or `MAGIC141_WEIGHTS` names no directory.
        WeightsMissing: nothing was found; the message lists the places.
        WeightsCorrupt: a file is not the one that was sealed.
    """
    folder = _locate(name_or_path, hub or {})
    if (folder / SUMS).exists():
        verify(folder)
    return folder


def presets() -> list[str]:
    """Names that `resolve` knows here without a path: the shipped, and those under `MAGIC141_WEIGHTS`."""
    roots = [root for root in (SHIPPED, _own_directory()) if root is not None]
    return sorted({*PRESETS, *(index.parent.name for root in roots for index in root.glob(f"*/{INDEX}"))})


def verify(folder: Path) -> dict[str, str]:
    """Check every sealed file; returns what `SHA256SUMS` records, sha256 by path inside `folder`.

    Raises WeightsMissing where `folder` was never sealed, and WeightsCorrupt naming the file and the remedy.
    """
    sums = read_sums(folder)
    for name, recorded in sums.items():
        path = folder / name
        if not path.is_file():
            raise WeightsCorrupt(f"{path} is listed in {SUMS} and is not there: {_remedy(folder)}")
        if (found := file_sha256(path)) != recorded:
            raise WeightsCorrupt(
                f"{path} has sha256 {found[:12]}…, and {SUMS} records {recorded[:12]}…: {_remedy(folder)}"
            )
    return sums


def share(folder: Path, preset: str, parts: Sequence[str], changed: Sequence[str] = ()) -> None:
    """Drop `parts` of `folder` that are, file by file, those of `preset`, and note where they are; seal it after.

    changed: parts that differ, and that `folder` makes from those of `preset` (see `magic141.adapter`).

    Raises InputError where another part differs: then it cannot be shared.
    """
    lender, sums = resolve(preset), {}
    for part in parts:
        names = [
            path.relative_to(folder).as_posix()
            for path in sorted((folder / part).rglob("*"))
            if path.is_file()
        ]
        for name in names:
            sums[name] = file_sha256(folder / name)
            if not (lender / name).is_file() or file_sha256(lender / name) != sums[name]:
                raise InputError(
                    f"{folder / name} differs from that of {preset!r}: ship the part with its student"
                )
    for part in changed:
        sums |= {
            path.relative_to(lender).as_posix(): file_sha256(path)
            for path in sorted((lender / part).glob("*"))
        }
    for part in (*parts, *changed):
        shutil.rmtree(folder / part)
    facts = {"preset": preset, "parts": [*parts, *changed], "sha256": sums}
    (folder / SHARED).write_text(json.dumps(facts, indent=1) + "\n", "utf-8", newline="\n")


def shared(folder: Path) -> dict[str, Path]:
    """Parts that `folder` takes from another preset, and where they lie. Raises WeightsMissing, WeightsCorrupt."""
    path = folder / SHARED
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text("utf-8"))
    lender = resolve(facts["preset"])
    for name, recorded in facts["sha256"].items():
        if not (lender / name).is_file() or file_sha256(lender / name) != recorded:
            raise WeightsCorrupt(
                f"{folder} was made with another {lender / name} than is there now: pack it anew from its student"
            )
    return {part: lender / part for part in facts["parts"]}


def seal(folder: Path) -> dict[str, str]:
    """Write `SHA256SUMS` for the files now in `folder`; returns what it holds. Replaces it in one step.

    Raises WeightsMissing where `folder` holds no diffusers pipeline.
    """
    if not (folder / INDEX).is_file():
        raise WeightsMissing(f"{folder} has no {INDEX}: save a pipeline there first")
    sums = {name: file_sha256(folder / name) for name in _sealable(folder)}
    partial = folder / f"{SUMS}.partial"
    partial.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), "utf-8", newline="\n")
    partial.replace(folder / SUMS)
    return sums


def fingerprint(folder: Path) -> str:
    """One sha256 for all files of `folder`: what a benchmark calls the weights. Verified where sealed."""
    sealed = (folder / SUMS).exists()
    sums = verify(folder) if sealed else {name: file_sha256(folder / name) for name in _sealable(folder)}
    return hashlib.sha256("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()).hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """What `SHA256SUMS` records: path inside `folder` to sha256. Raises WeightsMissing, WeightsCorrupt."""
    path = folder / SUMS
    if not path.is_file():
        raise WeightsMissing(f"{path} does not exist: seal the folder with `python -m magic141 weights seal`")
    sums = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        match = _SUMS_LINE.fullmatch(line)
        if match is None or ".." in PurePosixPath(match[2]).parts or PurePosixPath(match[2]).is_absolute():
            raise WeightsCorrupt(f"{path} line {number} is no sha256 of a file here: {_remedy(folder)}")
        sums[match[2]] = match[1]
    if INDEX not in sums:
        raise WeightsCorrupt(f"{path} does not list {INDEX}: {_remedy(folder)}")
    return sums


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`, without PyTorch. Raises WeightsMissing, WeightsCorrupt."""
    path = folder / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise WeightsMissing(f"{path} does not exist: {_remedy(folder)}")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises for a broken file is a bare Exception
        raise WeightsCorrupt(f"{path} is no tokenizer ({error}): {_remedy(folder)}") from error


def file_sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Once for a file that stays as it is: each cell of a plan asks for the same tens of gigabytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def incomplete(folder: Path) -> str | None:
    """What a diffusers folder lacks of the files that it names: an interrupted download leaves some out.

    A component with a `config.json` is a model, and has its weights beside it, whole or in the parts of an index.
    """
    if not (folder / INDEX).is_file():
        return INDEX
    components = json.loads((folder / INDEX).read_text("utf-8"))
    for name, kind in components.items():
        if name.startswith("_") or not isinstance(kind, list) or kind[0] is None:
            continue
        part = folder / name
        if not part.is_dir():
            return f"{name}/"
        if (part / "config.json").is_file() and (lacks := _unweighted(part)) is not None:
            return f"{name}/{lacks}" if lacks else f"weights of {name}/"
    return None


def _unweighted(part: Path) -> str | None:
    """None for a model folder with whole weights, in one format or variant at least; else a shard that lacks, or ""
    where there is none to name.
    """
    files = {path.name for path in part.iterdir() if path.suffix in (".safetensors", ".bin")}
    indices = [json.loads(path.read_text("utf-8"))["weight_map"] for path in part.glob("*.index.json")]
    lacking = [sorted({*index.values()} - files) for index in indices]
    if not all(lacking) or files.difference(*(index.values() for index in indices)):
        return None
    return next((names[0] for names in lacking), "")


def _locate(name_or_path: str | os.PathLike[str], hub: Mapping[str, Any]) -> Path:
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    is_bare = path.name == name and name not in ("", ".", "..")
    if isinstance(name_or_path, Path) or not is_bare:
        if path.is_dir():
            if not (path / INDEX).is_file():
                raise WeightsMissing(f"{path} has no {INDEX}: name a folder that a pipeline saved")
            return path
        if isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name):
            raise WeightsMissing(f"no weights at {name!r}: no such folder")

    roots = [SHIPPED] if (own := _own_directory()) is None else [own, SHIPPED]
    for root in roots:
        if (root / name / INDEX).is_file():
            return root / name
    searched = [str(root / name) for root in roots]
    if name in PRESETS:
        raise WeightsMissing(f"no weights {name!r} in {', '.join(searched)}: reinstall the package")
    if is_bare:
        known = presets()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"unknown preset {name!r}: {hint}known are {', '.join(known)} (searched {', '.join(searched)}). "
            f"A folder needs a path such as ./{name}, a hub repository its owner"
        )
    return _from_hub(name, searched, hub)


def _from_hub(repository: str, searched: list[str], hub: Mapping[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repository, **{**hub, "local_files_only": True}))
        if _is_complete(cached):
            return cached
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    try:
        folder = Path(snapshot_download(repository, **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        places = ", ".join([*searched, "the Hugging Face cache", "the hub"])
        reason = str(error).strip().splitlines()[0]
        raise WeightsMissing(
            f"no weights {repository!r} in {places} ({reason}). Download them where there is a network, "
            f"or put the folder under the directory that {DIRECTORY_VARIABLE} names"
        ) from error
    if not (folder / INDEX).is_file():
        raise WeightsMissing(f"the hub repository {repository!r} has no {INDEX}: it is no diffusers pipeline")
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot has its files: an interrupted download leaves some out."""
    if not (folder / INDEX).is_file():
        return False
    return not (folder / SUMS).is_file() or all((folder / name).is_file() for name in read_sums(folder))


def _own_directory() -> Path | None:
    value = os.environ.get(DIRECTORY_VARIABLE)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise InputError(f"{DIRECTORY_VARIABLE}={value!r} is no directory: create it or unset the variable")
    return path


def _sealable(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        about = path.suffix in (".md", ".partial") or path.name in (SUMS, "training.json")
        if path.is_file() and not hidden and not about:
            yield path.relative_to(folder).as_posix()


def _remedy(folder: Path) -> str:
    if folder.is_relative_to(SHIPPED):
        return "restore it with `git checkout -- magic141/weights`, or reinstall the package"
    return "fetch the folder again, or seal it anew if you changed it (`python -m magic141 weights seal`)"
