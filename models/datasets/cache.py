"""Arrays that took a while to make, kept on disk: written at once or not at all, checked before they are read."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import numpy as np

_CHECKSUM_BYTES = hashlib.sha256().digest_size


class CorruptCacheError(ValueError):
    """A cache file does not hold what was written to it: cut short, changed, or not a cache file at all."""


def cache_dir(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder for cached files: ``root``, else $IMPLICITLAYERS_CACHE, else ``implicitlayers`` in the user's cache."""
    chosen = root or os.environ.get("IMPLICITLAYERS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "implicitlayers"


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` to ``path``, so that readers see the whole file or none.

    The file is an .npz with its SHA-256 (32 bytes) behind it; ``np.load`` opens it as well. Processes that write the
    same path at the same time do not disturb one another; the last one wins.

    Raises:
        OSError: the folder cannot be made or written; nothing is left behind.
    """
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]  # numpy's stubs: a name might be allow_pickle
    body = archive.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of our own, not tempfile's: its files are private to the user (mode 600), a cache may be shared.
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(body + hashlib.sha256(body).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`save_arrays` wrote: first the checksum is compared, only then is anything interpreted.

    Never unpickles, so not even a file with a valid checksum can run code.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptCacheError: the file is damaged, was changed, or is something else.
        ValueError: the file has a valid checksum and still holds something other than plain arrays.
    """
    content = path.read_bytes()
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest() != checksum:
        raise CorruptCacheError(
            f"{path}: expected an .npz followed by its SHA-256, got {len(content)} bytes that differ"
        )
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def load_or_make(
    path: Path,
    make: Callable[[], dict[str, np.ndarray]],
    what: str,
    check: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None,
) -> dict[str, np.ndarray]:
    """Arrays from the cache; made and cached where the cache has none, or none that can be trusted.

    Args:
        path: the cached file.
        make: makes the arrays.
        what: what the arrays are, for the warnings that the cache is damaged or cannot be written.
        check: raises CorruptCacheError where the arrays of an intact file are not those that ``make`` would make.
    """
    try:
        arrays = load_arrays(path)
        check(arrays)
        return arrays
    except (FileNotFoundError, NotADirectoryError):
        pass
    except CorruptCacheError as error:
        warnings.warn(f"cached {what} are damaged and will be made again: {error}", stacklevel=3)
    arrays = make()
    try:
        save_arrays(path, arrays)
    except OSError as error:
        warnings.warn(f"{what} could not be cached, the next use will make them again: {error}", stacklevel=3)
    return arrays
