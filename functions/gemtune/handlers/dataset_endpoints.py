"""Operations on datasets and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from gemtune.checks.errors import CheckNotFound, RowsNotReadable, TooManyChecks
from gemtune.checks.request import CheckRequest
from gemtune.checks.row import SplitName
from gemtune.datasets.files.kinds import KINDS
from gemtune.datasets.uploads.errors import (
    BadPart,
    ChecksumMismatch,
    DatasetIncomplete,
    DatasetInUse,
    DatasetNotFound,
    DatasetUnreadable,
)
from gemtune.datasets.uploads.record import MAX_BYTES, PART_BYTES
from gemtune.errors import (
    BadPageToken,
    NoSignedLinks,
)
from gemtune.handlers import answers, routes
from gemtune.handlers.description.endpoint import Binary, Endpoint
from gemtune.handlers.description.parameters import OneOf, Text, WholeNumber
from gemtune.request.spec import PRINTABLE
from gemtune.request.uploads.dataset import MAX_FILES, DatasetUpload, PartLinksRequest
from gemtune.untrusted import MAX_NUMBER

FILE_KIND = OneOf(
    name="kind",
    description="ending of the file's name, which says what it is; absent: jsonl",
    values=tuple(kind.suffix.removeprefix(".") for kind in KINDS),
)
DATASET_NAME = Text(
    name="name",
    description="name for people; absent: unnamed dataset",
    max_length=200,
    pattern=PRINTABLE,
    code="bad_form",
    hint="leave out control characters",
)
FILE_NUMBER = WholeNumber(
    name="file", description="number of the file in `files`, from 0", least=0, most=MAX_FILES - 1, default=0
)
PART_NUMBER = WholeNumber(
    name="part", description="number of the part, from 0", least=0, most=MAX_BYTES // PART_BYTES, default=0
)
DATASETS_LIMIT = WholeNumber(name="limit", description="datasets per page", least=1, most=200, default=50)
AFTER_DATASET = Text(
    name="after",
    description="`next_after` of the previous page; absent: the first page",
    max_length=255,
    pattern="[!-~]([ -~]*[!-~])?",
    code="bad_page_token",
    hint="start again without after",
)
FILES_LIMIT = WholeNumber(name="limit", description="files per page", least=1, most=200, default=50)
AFTER_FILE = WholeNumber(
    name="after", description="`next_after` of the previous page", least=0, most=MAX_NUMBER, default=0
)
SPLIT = OneOf(name="split", description="split of the dataset; absent: train", values=get_args(SplitName))
ROWS_LIMIT = WholeNumber(name="limit", description="rows per page", least=1, most=200, default=20)
AFTER_ROW = Text(
    name="after",
    description="`next_after` of the previous page; absent: the first rows",
    max_length=40,
    pattern="[a-z0-9-]+",
    code="bad_page_token",
    hint="start again without after",
)
CHECK_ID = Text(
    name="check_id",
    description="done check of the dataset: show the first rows of the split with their text, tokens and mask; absent: "
    "show rows as the files have them",
    max_length=40,
    pattern="[a-z0-9_]+",
    code="bad_form",
    hint="send the check_id of POST /datasets/{dataset_id}/check",
)

DATASETS: Sequence[Endpoint] = (
    Endpoint(
        method="POST",
        path="/datasets",
        summary="Begin or repeat the upload of a dataset",
        route=routes.upload_dataset,
        success=200,
        answer=answers.Dataset,
        body=DatasetUpload,
        parameters=(),
        errors=(DatasetUnreadable,),
    ),
    Endpoint(
        method="POST",
        path="/datasets/file",
        summary="Upload a small file of rows in one call",
        route=routes.upload_file,
        success=200,
        answer=answers.Dataset,
        body=Binary(PART_BYTES),
        parameters=(FILE_KIND, DATASET_NAME),
        errors=(DatasetUnreadable,),
    ),
    Endpoint(
        method="PUT",
        path="/datasets/{dataset_id}/parts",
        summary="Send one part of a file of a dataset",
        route=routes.upload_part,
        success=200,
        answer=answers.PartStored,
        body=Binary(PART_BYTES),
        parameters=(FILE_NUMBER, PART_NUMBER),
        errors=(DatasetNotFound, BadPart, DatasetUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/datasets/{dataset_id}/part-links",
        summary="Get links that send parts of a dataset to the storage",
        route=routes.part_links,
        success=200,
        answer=answers.PartLinks,
        body=PartLinksRequest,
        parameters=(),
        errors=(DatasetNotFound, BadPart, DatasetUnreadable, NoSignedLinks),
    ),
    Endpoint(
        method="POST",
        path="/datasets/{dataset_id}/complete",
        summary="Put the parts of a dataset together",
        route=routes.complete_dataset,
        success=200,
        answer=answers.Dataset,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetIncomplete, ChecksumMismatch, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets",
        summary="List datasets",
        route=routes.list_datasets,
        success=200,
        answer=answers.DatasetList,
        body=None,
        parameters=(DATASETS_LIMIT, AFTER_DATASET),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}",
        summary="Show a dataset, and what is missing of its upload",
        route=routes.show_dataset,
        success=200,
        answer=answers.Dataset,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/files",
        summary="List the files of a dataset, to download them",
        route=routes.dataset_files,
        success=200,
        answer=answers.DatasetFiles,
        body=None,
        parameters=(FILES_LIMIT, AFTER_FILE),
        errors=(DatasetNotFound, DatasetIncomplete, DatasetUnreadable, NoSignedLinks),
    ),
    Endpoint(
        method="DELETE",
        path="/datasets/{dataset_id}",
        summary="Delete a dataset that no unfinished job uses",
        route=routes.delete_dataset,
        success=200,
        answer=answers.DatasetDeleted,
        body=None,
        parameters=(),
        errors=(DatasetNotFound, DatasetInUse),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/rows",
        summary="Show rows of a dataset",
        route=routes.dataset_rows,
        success=200,
        answer=answers.DatasetRows,
        body=None,
        parameters=(SPLIT, ROWS_LIMIT, AFTER_ROW, CHECK_ID),
        errors=(BadPageToken, DatasetNotFound, DatasetIncomplete, CheckNotFound, RowsNotReadable, DatasetUnreadable),
    ),
    Endpoint(
        method="POST",
        path="/datasets/{dataset_id}/check",
        summary="Begin a check of a dataset, without a job",
        route=routes.begin_check,
        success=202,
        answer=answers.DatasetCheck,
        body=CheckRequest,
        parameters=(),
        errors=(DatasetNotFound, DatasetIncomplete, TooManyChecks, DatasetUnreadable),
    ),
    Endpoint(
        method="GET",
        path="/datasets/{dataset_id}/checks/{check_id}",
        summary="Show a check of a dataset, and its report",
        route=routes.show_check,
        success=200,
        answer=answers.DatasetCheck,
        body=None,
        parameters=(),
        errors=(CheckNotFound, NoSignedLinks),
    ),
)
