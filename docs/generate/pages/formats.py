"""Page of the formats of rows."""

from __future__ import annotations

from docs.generate.text.markdown import Page, code, codes
from gemtune.datasets.formats import table
from gemtune.datasets.reading import fields, flags, media
from gemtune.datasets.rl import answers
from gemtune.datasets.rl import formats as rl_formats
from gemtune.datasets.row_options import RL_FORMATS


def page() -> Page:
    page = Page("Formats of rows", "Every format of supervised rows, and what becomes of their fields.")
    page.paragraph(
        "A row has the format whose shape it has, or the one that `dataset_format` names. A row that fits several is "
        "refused, and names them. `dataset_columns` says what a field is called in the dataset."
    )
    page.table(
        ("`dataset_format`", "rows", "fields that `dataset_columns` can name"),
        [(code(each.name), each.title, codes(each.fields)) for each in table.FORMATS],
    )
    page.paragraph(
        f"Each of them may have pictures in a column {_names(media.PICTURES)}, for whose places the texts of the user "
        f"have {code(media.PICTURES.mark)}, and in an audio job audio clips in a column {_names(media.AUDIO)}, for "
        f"whose places they have {code(media.AUDIO.mark)}. Flags of a turn that say whether it is learned: "
        f"{codes(flags.NAMES)}."
    )
    page.heading("Rows of RL")
    page.paragraph(
        "With method RL the algorithm says which fields a row needs. The prompt is in one of "
        f"{codes(answers.PROMPTS)}: a text, or messages of {{role, content}} or of {{from, value}}; an `instruction` "
        "may have an `input` beside it, as in Alpaca's rows. `dataset_format` names a format of the algorithm, where "
        "rows fit two of them, and decides the algorithm if there is no `rl_config`."
    )
    of_questions = ("prompt", rl_formats.QUESTION_TITLE, (*rl_formats.BESIDE_PROMPT, "answer"))
    rows = [
        *((each.name, each.title, each.fields) for each in rl_formats.PAIRS),
        *((each.name, each.title, each.fields) for each in rl_formats.LABELLED_ROWS),
        of_questions,
    ]
    algorithms: dict[str, str] = {name: algorithm.upper() for algorithm, names in RL_FORMATS.items() for name in names}
    page.table(
        ("`dataset_format`", "algorithm", "rows", "fields that `dataset_columns` can name"),
        [(code(name), algorithms[name], title, codes(names)) for name, title, names in rows],
    )
    page.heading("Fields that are not read")
    page.paragraph(
        "These cannot change what is learned. They are counted by name in the report; any other field that no reader "
        "takes refuses its row."
    )
    page.paragraph(codes(sorted(fields.HARMLESS)))
    page.heading("Fields that refuse a row")
    page.table(("field", "what to do"), [(code(name), what) for name, what in fields.UNSUPPORTED.items()])
    return page


def _names(column: media.MediaColumn) -> str:
    return " or ".join(map(code, column.names))
