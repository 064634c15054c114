"""Files that are written whole, and that are known to be ours and unaltered when they are read again.

``write_whole``     writes to a temporary file and renames it, so that the file is always complete
``write_json``      a JSON object, with the checksum of its text as the last entry; ``read_json`` looks at it
``write_checksums`` FOLDER/checksums.json: the checksums of files that have no place for one; ``altered`` compares them

A file is ours where its checksum says so: another program's file of the same name has none.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"


class DamagedFile(ValueError):
    """A file is not as pyroscvi wrote it: it was cut short or altered, or another program wrote it."""


def write_whole(file: Path, write: Callable[[Path], object], previous: Path | None = None) -> Path:
    """The file, with what ``write`` writes: all of it, or what was there before.

    previous   where the file that was there before is kept; without a name it is replaced

    Raises OSError, which names the file, where the disk is full or the folder may not be written to.
    """
    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        _flush(partial)
        if previous is not None and file.exists():
            os.replace(file, previous)
        os.replace(partial, file)
        _flush(file.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(file)) from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def remove_partial(folder: Path) -> None:
    """Remove partial files that a killed process left. Call it before writing, when no other process is writing."""
    for partial in folder.glob(".*.partial*"):
        partial.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object, with its checksum; see the module for how."""
    return write_whole(file, lambda partial: partial.write_text(_text(content), "utf-8"))


def read_json(file: Path) -> dict[str, Any]:
    """The object that ``write_json`` wrote. Raises ``DamagedFile`` if one byte is another, OSError if there is none."""
    text = file.read_bytes()
    try:
        content = json.loads(text)
        content.pop("checksum")
        same = _text(content).encode() == text
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        same = False
    if not same:
        raise DamagedFile(f"{file} is not as pyroscvi wrote it: it was altered or cut short, or is another program's")
    return content


def write_checksums(folder: Path, names: Iterable[str]) -> Path:
    """Write down the checksums of these files of a folder."""
    return write_json(folder / CHECKSUMS, {name: _checksum(folder / name) for name in names})


def altered(folder: Path) -> list[Path]:
    """The files of a folder that are not as they were when their checksums were written down.

    Raises OSError if there are no checksums, ``DamagedFile`` if these are not as they were written.
    """
    checksums = read_json(folder / CHECKSUMS)
    return [folder / name for name, value in checksums.items() if _checksum(folder / name) != value]


def _text(content: Mapping[str, Any]) -> str:
    checksum = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "checksum": checksum}, indent=2) + "\n"


def _checksum(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until the file, or the list of files of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
