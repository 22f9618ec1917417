"""A bank on disk: a folder of ``bank.json`` and one safetensors file, locally and on the Hugging Face Hub.

The matrices are written first, under a name made of their content; ``bank.json``, which points at them, is renamed
into place last. So a reader sees the old bank or the new one, whenever the writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from conceptatlas.extraction.errors import UserError

SCHEMA = 1
"""The version of the folder's format; a newer one is refused."""
_JSON = "bank.json"


def write_folder(path: str | Path, values: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """Write JSON-ready values and matrices as the folder `path`, and return it.

    Raises
    ------
    UserError
        Where the folder cannot be written.
    """
    folder, data = Path(path), save(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    name = f"directions-{checksum[:16]}.safetensors"
    document = {"schema": SCHEMA, "tensors": name, "sha256": checksum, "digest": _digest(values), "bank": values}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_atomic(folder / name, data)
        _write_atomic(folder / _JSON, json.dumps(document, indent=1, allow_nan=False).encode())
        for stale in folder.glob("directions-*.safetensors"):
            if stale.name != name:
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The concept bank cannot be written to {folder}: {error}.") from error
    return folder


def read_folder(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The values and matrices in the folder `path`.

    Raises
    ------
    UserError
        Where the folder is missing, torn, changed outside the library, or written by a newer version.
    """
    document = _read_document(Path(path))
    return document["bank"], _read_tensors(Path(path), document)


def push_folder(
    repo_id: str | Path,
    values: dict[str, Any],
    tensors: dict[str, np.ndarray],
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload concept bank",
) -> str:
    """Upload a bank to the Hugging Face Hub, or write it to a local folder.

    Parameters
    ----------
    repo_id : str or Path
        ``"user/name"`` on the Hub. A `Path`, or text that starts with ``/``, ``./``, ``../`` or ``~``, is a folder.
    values, tensors : dict
        What `write_folder` takes.
    private, token, revision, message
        As in `huggingface_hub`; not used for a local folder.

    Returns
    -------
    str
        The address of the upload, or the folder.

    Raises
    ------
    UserError
        Where the Hub does not take it.
    """
    local = _local_folder(repo_id)
    if local is not None:
        return str(write_folder(local, values, tensors))
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, values, tensors)
        try:
            api.create_repo(str(repo_id), private=private, exist_ok=True)
            info = api.upload_folder(
                repo_id=str(repo_id),
                folder_path=folder,
                revision=revision,
                commit_message=message,
                delete_patterns="directions-*.safetensors",
            )
        except Exception as error:  # what the transport raises differs between versions of the hub client
            raise UserError(f"The concept bank could not be uploaded to {repo_id!r} ({_short(error)}).") from error
    return str(info)


def pull_folder(
    repo_id: str | Path, *, revision: str | None = None, token: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The values and matrices of a bank on the Hub, or in a local folder: as in `push_folder`, or any that exists.

    Raises
    ------
    UserError
        Where they cannot be fetched or do not read.
    """
    local = _local_folder(repo_id) or (Path(repo_id) if Path(repo_id).is_dir() else None)
    if local is not None:
        return read_folder(local)
    from huggingface_hub import snapshot_download

    patterns = [_JSON, "directions-*.safetensors"]
    try:
        folder = snapshot_download(str(repo_id), revision=revision, token=token, allow_patterns=patterns)
    except Exception as error:  # as above
        advice = "check the name and the network, or give the path of a folder that ConceptBank.save wrote"
        raise UserError(f"The concept bank {repo_id!r} could not be fetched ({_short(error)}); {advice}.") from error
    return read_folder(folder)


def json_ready(value: Any) -> Any:
    """The value as JSON takes it: arrays as lists, NaN and infinity as null, keys and unknown objects as text.

    Examples
    --------
    >>> json_ready({1: np.float32(0.5), "path": Path("a/b"), "x": (math.nan, True)})
    {'1': 0.5, 'path': 'a/b', 'x': [None, True]}
    """
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return str(value)


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / _JSON
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no concept bank in {folder}: {_JSON} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is torn or not a concept bank ({error}); save the bank again.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int):
        raise UserError(f"{file} is not a concept bank: it has no schema version.")
    if schema > SCHEMA:
        raise UserError(f"{file} has schema {schema}, newer than {SCHEMA}, the newest known here; update conceptatlas.")
    if not isinstance(document.get("bank"), dict) or not _is_sound(document["bank"], document.get("digest")):
        raise UserError(f"{file} was changed or torn after it was saved; use rename, tag and note to edit a bank.")
    return document


def _read_tensors(folder: Path, document: dict[str, Any]) -> dict[str, np.ndarray]:
    name = document.get("tensors")
    if not isinstance(name, str) or Path(name).name != name or not name.startswith("directions-"):
        raise UserError(f"The concept bank in {folder} points at {name!r}, which is not a file of its own.")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise UserError(f"The concept bank in {folder} is torn: {name} cannot be read ({error}).") from error
    if hashlib.sha256(data).hexdigest() != document.get("sha256"):
        raise UserError(f"{folder / name} is torn or was changed: its checksum is not the recorded one.")
    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(f"{folder / name} is not a safetensors file: {error}.") from error


def _local_folder(repo_id: str | Path) -> Path | None:
    if isinstance(repo_id, Path):
        return repo_id
    return Path(repo_id).expanduser() if repo_id.startswith(("/", "./", "../", "~")) else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _write_atomic(file: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_sound(values: dict[str, Any], digest: Any) -> bool:
    try:
        return digest == _digest(values)
    except ValueError:  # numbers that a bank is never saved with: NaN, infinity
        return False


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
