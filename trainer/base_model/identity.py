"""Identity of a base model: a digest of every file of it that a job uses.

prepare records it, and every later step compares: weights, tokenizer, chat template and configuration have to be those
that the job was prepared with, whenever the step runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from gemtune.errors import StepError
from gemtune.ports import Objects
from trainer.base_model import folder_contents
from trainer.store import manifest

# Files besides the weights that training or an export reads. Other files may change. With adapter_config.json
# transformers would load an adapter, or the base model that it names.
DESCRIPTIONS = frozenset(
    (
        "adapter_config.json added_tokens.json chat_template.jinja chat_template.json config.json "
        "generation_config.json preprocessor_config.json processor_config.json special_tokens_map.json tokenizer.json "
        "tokenizer.model "
        f"tokenizer_config.json video_preprocessor_config.json {folder_contents.INDEX}"
    ).split()
)

# Digests by file name, each as `<algorithm>:<digest>`.
Digests = Mapping[str, str]


def used_files(folder: Path, names: Collection[str]) -> list[str]:
    """Return the names of the files that a job uses, sorted.

    folder: with the small files of the model at least. names: of all files of the model. Of weights in two formats only
    those of the index count, and the one file that transformers prefers to them.
    """
    indexed = folder_contents.indexed_files(folder) if folder_contents.INDEX in names else set()
    weights = indexed or {name for name in names if name.endswith(folder_contents.WEIGHTS)}
    return sorted((weights | {folder_contents.WHOLE} | DESCRIPTIONS) & set(names))


def of_folder(folder: Path) -> Digests:
    """Return the digests of a model in a local folder; read each file once."""
    names = used_files(folder, {path.name for path in folder.iterdir() if path.is_file()})
    return {name: f"sha256:{manifest.sha256(folder / name)}" for name in names}


def of_objects(objects: Objects, prefix: str, folder: Path, downloaded: Digests | None = None) -> Digests:
    """Return the digests of a model in a bucket.

    folder: with the small files of the model at least. downloaded: digests that need not be computed.
    """
    names = used_files(folder, {stat.name.removeprefix(f"{prefix}/") for stat in objects.list(f"{prefix}/")})
    return {name: (downloaded or {}).get(name) or objects.digest(f"{prefix}/{name}") for name in names}


def of_download(objects: Objects, prefix: str) -> Digests:
    """Return the digests that were computed while a model was downloaded.

    There are none where the bucket has digests of its own.
    """
    copy = manifest.read_whole(objects, prefix) if objects.digest_algorithm == "sha256" else None
    return {} if copy is None else {each.name: f"sha256:{each.sha256}" for each in copy.artifacts}


def check(recorded: Digests, current: Digests, place: str) -> None:
    """Raise StepError `base_changed` if a base model is not the recorded one.

    place: where it is, for the message.
    """
    differences = changes(recorded, current)
    if differences:
        message = f"the base model in {place} is not the one that this job was prepared with: {'; '.join(differences)}"
        hint = (
            "put the files of that time back and repeat the step (for a finished training: export again), or submit "
            "the job again to train on the files of now"
        )
        raise StepError("base_changed", message[:600], hint=hint)


def changes(recorded: Digests, current: Digests) -> list[str]:
    """Return how a base model differs from the recorded one, in words."""
    return [
        *(
            f"{name} has other content"
            for name in sorted(recorded)
            if current.get(name, recorded[name]) != recorded[name]
        ),
        *(f"{name} is missing" for name in sorted(set(recorded) - set(current))),
        *(f"{name} was added" for name in sorted(set(current) - set(recorded))),
    ]
