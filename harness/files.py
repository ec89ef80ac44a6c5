"""Files that outlive a crash: written whole or not at all, and on the disk before anything relies on them. And files
that people write, read with a line for what is wrong."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.types import Json

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # the user's to mend


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's list of names, are on the disk (fsync(2))."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def locked(folder: Path) -> int:
    """Locks a folder itself, which leaves nothing in it, for as long as the descriptor that is returned stays open.
    Raises `BlockingIOError` where another holds it, and `OSError` where the file system locks no folders."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held


def write_whole(path: Path, content: bytes) -> None:
    """Writes through a temporary file beside it and a rename, each synced: a reader, a crash or a loss of power sees
    the old bytes or the new. Raises `OSError` that names the file, where a folder, a device or a pipe stands there too;
    what stood there then stands, and no part of the new is left."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is no plain file", str(path))
    part = path.with_name(f".{path.name[:100]}.{uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def cannot_write(folder: Path) -> str | None:
    """Why a folder cannot be made or written, found with one beside it that is taken away again: rights alone do not
    tell it (root has all in /proc), and a mistake leaves nothing behind."""
    try:
        there = next(p for p in (folder, *folder.parents) if p.exists())
    except OSError as error:
        return str(error.strerror)
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryDirectory(prefix=".harness-", dir=there):
            return None
    except OSError as error:
        return f"{there}: {error.strerror}"


def cannot_listen() -> str | None:
    """Why no fork server can run: its socket lies two folders deep in the temporary folder, and a socket's path is
    short (`sun_path` of unix(7), 108 bytes on Linux). Found with one of the same length."""
    with tempfile.TemporaryDirectory(prefix="pymp-") as folder, socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(Path(folder) / "listener-12345678"))
        except OSError as error:
            return str(error)
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes in hex, about 1 GB a second."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


BINARY = {
    b"PK\x03\x04": "a spreadsheet or an archive", b"\xd0\xcf\x11\xe0": "a spreadsheet", b"\x1f\x8b": "compressed",
    b"PAR1": "a Parquet file",
}  # fmt: skip


def unread(path: Path, error: OSError | UnicodeDecodeError) -> str:
    """A line that says why a file could not be read as text, and how to mend that."""
    if isinstance(error, UnicodeDecodeError):
        if what := next((what for start, what in BINARY.items() if error.object.startswith(start)), None):
            return f"{path}: is {what}, not text; unpack it, or save its table as .csv"
        return f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8"
    return f"{path}: cannot be read ({error.strerror}); give a file that can be"


def parse(text: str) -> Json:
    """A JSON value. Raises `ValueError` for anything else, be it nested deeper than Python reads."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def yaml_keys(path: Path) -> Any:
    """A YAML file of keys as OmegaConf has it. Raises `ValueError` in a line for anything else."""
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.load(path)
    except RecursionError:
        raise ValueError("nested too deep to be read") from None
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"not YAML that can be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, DictConfig):
        raise ValueError("holds no keys")
    return found
