"""Location of a base model: a local folder, a bucket, or the Hub.

Models from the Hub are copied to the export bucket once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gemtune.errors import ObjectNotFound, StepError, UnsafeName
from gemtune.families.size import ModelSize
from gemtune.ports import Buckets, Objects
from gemtune.request import base_model
from gemtune.untrusted import MAX_BYTES
from trainer.base_model import folder_contents, hub_download, identity
from trainer.base_model.folder_contents import config_of as config_of


def provide(
    base_model_id: str,
    buckets: Buckets,
    work: Path,
    *,
    token: Callable[[], str | None],
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Make the base model available to the train step; return where it is.

    Returns {kind, id, place}. kind `folder`: place is a local path. kind `bucket`: place is `bucket/prefix` in the
    object store. Raises StepError if there is no such model. Network errors propagate: a retry may succeed.
    """
    parsed = base_model.parse(base_model_id)
    if parsed is None:
        raise StepError("bad_base_model", "base_model_id has no downloaded form")
    kind, place = ("folder" if parsed.kind == "folder" else "bucket"), parsed.place
    if parsed.kind == "hub":
        prefix = hub_download.copy_once(parsed.place, buckets.export, work, token=token, check_stop=check_stop)
        place = f"{buckets.export.bucket}/{prefix}"
    return {"kind": kind, "id": base_model_id, "place": place}


def locate(buckets: Buckets, provided: Mapping[str, str], work: Path, recorded: identity.Digests | None = None) -> Path:
    """Return a local folder with all files of the base model, checked.

    Weights in a mounted bucket are not copied: they are read over the network. provided: from `provide`. recorded: from
    `identify`, when the job was prepared; None in jobs of an older gemtune. Raises StepError, `base_changed` if a file
    is not the recorded one.
    """
    if provided["kind"] == "folder":
        folder = Path(provided["place"])
    else:
        objects, prefix = _split_place(buckets, provided["place"])
        try:
            folder = objects.fetch_folder(prefix, work / "base_model", in_place=True)
        except ObjectNotFound:
            raise _nothing_in(provided["place"]) from None
        except UnsafeName as error:  # the name of the folder, or of a link in it
            raise StepError("bad_base_model", error.message, hint=error.hint) from error
    if recorded is not None and folder.is_dir():
        identity.check(recorded, _current(buckets, provided, folder), provided["place"])
    config_of(folder)  # raises the clearest error if the folder does not exist
    folder_contents.check_regular_files(folder)
    folder_contents.check_description(folder, {path.name for path in folder.iterdir()})
    for path in sorted(folder.glob(f"*{folder_contents.WEIGHTS}")):
        folder_contents.check_weights(path)
    return folder


def identify(buckets: Buckets, provided: Mapping[str, str], folder: Path) -> identity.Digests:
    """Return the digests of the base model's files, to compare them later.

    provided: from `provide`. folder: from `locate_without_weights`. Files in a local folder are read once; weights that
    were downloaded from the Hub, or that are in Cloud Storage, are not read again.
    """
    if provided["kind"] == "folder":
        return identity.of_folder(folder)
    objects, prefix = _split_place(buckets, provided["place"])
    return identity.of_objects(objects, prefix, folder, downloaded=identity.of_download(objects, prefix))


def _current(buckets: Buckets, provided: Mapping[str, str], folder: Path) -> identity.Digests:
    """Return the digests of the base model's files as they are now."""
    if provided["kind"] == "folder":
        return identity.of_folder(folder)
    return identity.of_objects(*_split_place(buckets, provided["place"]), folder)


def check_unchanged(
    buckets: Buckets, provided: Mapping[str, str], folder: Path, recorded: identity.Digests | None
) -> None:
    """Check a base model again, after it was read.

    Weights in a mount can be replaced while they are read. folder, recorded: as for `locate`. Files on this machine,
    whose digests would have to be computed, are not checked again. Raises StepError `base_changed`.
    """
    if recorded is None or provided["kind"] == "folder":
        return
    if _split_place(buckets, provided["place"])[0].digest_algorithm == "crc32c":
        identity.check(recorded, _current(buckets, provided, folder), provided["place"])


def size_to_plan(buckets: Buckets, provided: Mapping[str, str]) -> ModelSize | None:
    """Return the size of the base model, also of a local folder."""
    if provided["kind"] != "folder":
        return size(buckets, provided)
    folder = Path(provided["place"])
    names = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    return base_model.describe_folder((folder / "config.json").read_bytes, names).size


def size(buckets: Buckets, provided: Mapping[str, str]) -> ModelSize | None:
    """Return the size of the base model; None for a local folder.

    The size is for choosing a machine, and only a workstation, which has no choice, uses local folders. provided: from
    `provide`.
    """
    if provided["kind"] == "folder":
        return None
    objects, prefix = _split_place(buckets, provided["place"])
    names = {stat.name: stat.bytes for stat in objects.list(f"{prefix}/")}
    return base_model.describe_folder(lambda: objects.read(f"{prefix}/config.json", max_bytes=MAX_BYTES), names).size


def locate_without_weights(buckets: Buckets, provided: Mapping[str, str], work: Path) -> Path:
    """Return a local folder with the small files of the base model, checked.

    provided: from `provide`. Weights stay in their bucket, since a step that does not train may lack the disk space.
    Raises StepError.
    """
    if provided["kind"] == "folder":
        return locate(buckets, provided, work)
    objects, prefix = _split_place(buckets, provided["place"])
    try:
        names = [stat.name.removeprefix(f"{prefix}/") for stat in objects.list(f"{prefix}/")]
    except UnsafeName as error:
        raise StepError("bad_base_model", error.message, hint=error.hint) from error
    if not names:
        raise _nothing_in(provided["place"])
    folder = work / "base_model_without_weights"
    folder.mkdir()
    for name in filter(hub_download.is_model_file, names):
        if not name.endswith(folder_contents.WEIGHTS):
            shutil.copyfile(objects.fetch(f"{prefix}/{name}", work / "fetched"), folder / name)
    folder_contents.check_description(folder, names)
    return folder


def _split_place(buckets: Buckets, place: str) -> tuple[Objects, str]:
    """Split `bucket/prefix` into a bucket and the prefix. Raises StepError."""
    bucket, _, prefix = place.partition("/")
    objects = buckets.named(bucket)
    if objects is None:
        raise StepError("base_model_not_found", f"{bucket!r} is not a bucket of this service")
    return objects, prefix


def _nothing_in(place: str) -> StepError:
    hint = "upload the model's folder first"
    return StepError("base_model_not_found", f"there is nothing in {place[:200]!r}", hint=hint)
