"""Answers about base models."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from gemtune.services.planning.base_models import KnownModel, MethodNeed, ModelAtHand


class TrainingNeed(BaseModel):
    """Memory that a training with default settings needs."""

    method: str = Field(description="training method")
    machine: str | None = Field(description="the first machine of this service that has it; null: none has")
    main_gib: float = Field(description="main memory in GiB, without a GPU")
    gpu_gib: float = Field(description="GPU memory in GiB, on a machine with a GPU")

    @classmethod
    def of(cls, need: MethodNeed) -> TrainingNeed:
        """Return the need of a method."""
        return cls(
            method=need.method,
            machine=need.machine,
            main_gib=round(need.need.host_without_gpu, 1),
            gpu_gib=round(need.need.gpu, 1),
        )


class AvailableModel(BaseModel):
    """Base model whose files are there already."""

    base_model_id: str = Field(description="its value for a request")
    family: str | None = Field(description="generation of Gemma; null if it is none that is known")
    problem: str | None = Field(description="why it cannot be trained; null if it can")
    bytes: int = Field(description="size of its weights")
    parameters: int | None = Field(description="number of its parameters; null if its files do not tell")
    needs: Sequence[TrainingNeed] = Field(description="memory that each method needs; empty if its size is unknown")


class PublishedModel(BaseModel):
    """Size of published models."""

    name: str = Field(description="part of the names that models of this size have on the Hub")
    family: str = Field(description="generation of Gemma")
    reads_pictures: bool = Field(description="whether it can be trained on pictures")
    reads_audio: bool = Field(description="whether it can be trained on audio")
    parameters: int = Field(description="number of parameters")
    download_bytes: int = Field(description="size of the weights")
    needs: Sequence[TrainingNeed] = Field(description="memory that each method needs")


class Models(BaseModel):
    """Base models for a request."""

    memory_gib: float | None = Field(description="main memory of a workstation in GiB; null on Google Cloud")
    at_hand: Sequence[AvailableModel] = Field(description="base models whose files are there already")
    published: Sequence[PublishedModel] = Field(description="sizes of models on the Hub")

    @classmethod
    def of(cls, at_hand: Sequence[ModelAtHand], sizes: Sequence[KnownModel], memory_gib: float | None) -> Models:
        """Return lists of models as the API answers them."""
        return cls(
            memory_gib=None if memory_gib is None else round(memory_gib, 1),
            at_hand=[
                AvailableModel(
                    base_model_id=model.base_model_id,
                    family=model.family,
                    problem=model.problem,
                    bytes=model.bytes,
                    parameters=None if model.size is None else model.size.parameters,
                    needs=[TrainingNeed.of(need) for need in model.needs],
                )
                for model in at_hand
            ],
            published=[
                PublishedModel(
                    name=model.name,
                    family=model.family,
                    reads_pictures=model.reads_pictures,
                    reads_audio=model.reads_audio,
                    parameters=model.size.parameters,
                    download_bytes=model.size.file_bytes,
                    needs=[TrainingNeed.of(need) for need in model.needs],
                )
                for model in sizes
            ],
        )
