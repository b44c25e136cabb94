"""Fixed conversations of every certificate.

They are cases that the rows of a job may not have. Each has an answer, on which the models are compared; a prompt is
what stands before the last answer. Conversations that the model's chat template rejects are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.datasets.conversation import Conversation, Languages, Text, ToolCall, Turn, of_messages

_PROGRAM = 'def area(r):\n    """Of a circle."""\n\treturn 3.14159 * r ** 2  # \\u00b2\n'

_TURNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "one turn": (("user", "What is the capital of France?"), ("assistant", "The capital of France is Paris.")),
    "several turns": (
        ("user", "My name is Ada."),
        ("assistant", "Hello Ada, how can I help?"),
        ("user", "What is my name?"),
        ("assistant", "Your name is Ada."),
    ),
    "a system message": (
        ("system", "Answer in one word."),
        ("user", "Which colour has the sky?"),
        ("assistant", "Blue."),
    ),
    "a system message of several lines": (
        ("system", "You are a pirate.\n\nRules:\n- be brief\n- be kind\n"),
        ("user", "Hello!"),
        ("assistant", "Ahoy, matey."),
        ("user", "And now?"),
        ("assistant", "We sail at dawn."),
    ),
    "blanks around a message": (("user", "  Hi there \n\n"), ("assistant", "Hello.")),
    "blanks around an earlier answer": (
        ("user", "Name a fruit."),
        ("assistant", " \nAn apple.\n "),
        ("user", "Another one."),
        ("assistant", "A pear."),
    ),
    "long runs of blanks": (("user", f"a{' ' * 40}b\t\t\tc{' ' * 7}d\n\n\n\n\ne"), ("assistant", f"f{' ' * 33}g")),
    "Unicode": (("user", "Ünïcode 🙂 日本語 עברית e\u0301 \u200d ﬁ"), ("assistant", "Ça va, 👩‍🚀 Привет")),
    "special tokens in a text": (
        ("user", "What do <bos>, <eos>, <end_of_turn> and <b>bold</b> mean? </s> <unused1>"),
        ("assistant", "They are tokens."),
    ),
    "an empty answer": (("user", "Say nothing."), ("assistant", "")),
    "a program": (
        ("user", f"Explain this:\n```python\n{_PROGRAM}```"),
        ("assistant", f"It computes an area:\n{_PROGRAM}"),
    ),
    "numbers and JSON": (
        ("user", 'Add 1234567890 and 0.5: {"a": [1, 2, {"b": null}]}'),
        ("assistant", '{"sum": 1234567890.5}'),
    ),
}

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "name of the city"}},
            "required": ["city"],
        },
    },
}
# The last turn of each probe is the answer. Tools, options and thoughts that the chat template does not read make no
# probe.
PROBES: Mapping[str, Conversation] = {
    name: of_messages([{"role": role, "content": content} for role, content in turns]) for name, turns in _TURNS.items()
} | {
    "tools": Conversation(
        (
            Turn("user", "What is the weather in Oslo?"),
            Turn("assistant", calls=(ToolCall("get_weather", {"city": "Oslo"}),)),
            Turn("tool", '{"degrees": 7}', tool_name="get_weather"),
            Turn("assistant", "It is 7 degrees."),
        ),
        tools=(_WEATHER,),
    ),
    "a question with tools": Conversation(
        (Turn("user", "And in Rome?"), Turn("assistant", "I will ask.")), tools=(_WEATHER,)
    ),
    "a call of a tool": Conversation(
        (
            Turn("system", "You can call functions."),
            Turn("user", "What is the weather in Oslo?"),
            Turn("assistant", calls=(ToolCall("get_weather", {"city": "Oslo"}),)),
        ),
        tools=(_WEATHER,),
    ),
    "a result that is an object": Conversation(
        (
            Turn("user", "What is the weather in Oslo?"),
            Turn("assistant", calls=(ToolCall("get_weather", {"city": "Oslo"}),)),
            Turn("tool", '{"degrees": 7}', tool_name="get_weather", response={"degrees": 7}),
            Turn("assistant", "It is 7 degrees."),
        ),
        tools=(_WEATHER,),
    ),
    "a translation": Conversation(
        (
            Turn("user", (Text(" Good morning, Ada. ", Languages("en", "de")),)),
            Turn("assistant", "Guten Morgen, Ada."),
        )
    ),
    "two translations": Conversation(
        (
            Turn("user", (Text("Guten Morgen.", Languages("de", "en")),)),
            Turn("assistant", "Good morning."),
            Turn("user", (Text("Thank you.", Languages("en", "de")),)),
            Turn("assistant", "Danke."),
        )
    ),
    "thinking": Conversation(
        (Turn("user", "What is 17 times 3?"), Turn("assistant", "51.")), template_options={"enable_thinking": True}
    ),
    "a thought": Conversation(
        (Turn("user", "What is 19 times 3?"), Turn("assistant", "57.", thinking="20 times 3 is 60, less 3 is 57."))
    ),
}
