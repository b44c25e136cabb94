"""Chat templates of base models: found where models keep them, never trusted.

They are rendered as transformers renders them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from trainer.conversation import render_limits
from trainer.conversation.chat_template import OWN_TEMPLATES, ChatTemplate, TemplateRefusal

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<Captain> & 'crew'"}]
SPECIAL = {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}}


def template(folder: Path, text: str) -> ChatTemplate:
    (folder / "chat_template.jinja").write_text(text)
    return ChatTemplate(folder, SPECIAL)


def base_without_template(folder: Path, model_type: str, *tokens: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    added = [{"content": token} for token in tokens]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return folder


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        (OWN_TEMPLATES / "gemma_chat_template.jinja").read_text(),
        (OWN_TEMPLATES / "gemma4_chat_template.jinja").read_text(),
        "{{ bos_token }}{{ eos_token }}|{{ unk_token }}|{{ add_generation_prompt }}",
        "{% if tools is not none or documents is not none %}tools{% else %}none{% endif %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}",
        "{% for m in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m.content }}\n{% endfor %}\n",
        "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.index }}{{ loop.index0 }}{{ loop.length }}"
        "{{ loop.revindex }}{{ loop.previtem is defined }}{{ loop.absent }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
        "{{ strftime_now('%Y') | length }}",
    ],
)
def test_a_template_renders_as_in_transformers(tmp_path: Path, text: str, add_generation_prompt: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs, _ = render_jinja_template(
        conversations=[MESSAGES],
        chat_template=text,
        add_generation_prompt=add_generation_prompt,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="",
        pad_token="",
    )
    assert template(tmp_path, text).render(MESSAGES, add_generation_prompt=add_generation_prompt) == theirs[0]


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("chat_template.jinja", "here", "chat_template.jinja"),
        ("chat_template.json", json.dumps({"chat_template": "here"}), "chat_template.json"),
        ("other.txt", "", "gemtune's own for Gemma 3"),
    ],
)
def test_a_template_is_found_in_its_file(tmp_path: Path, name: str, content: str, source: str) -> None:
    base_without_template(tmp_path, "gemma3_text", "<start_of_turn>", "<end_of_turn>")
    (tmp_path / name).write_text(content)
    template = ChatTemplate(tmp_path, SPECIAL)
    assert template.source == source
    assert (template.render(MESSAGES) == "here") == (source == name)


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": "\\ud800"}', "[" * 3000])
def test_an_unreadable_template_file_fails_instead_of_being_skipped(tmp_path: Path, content: str) -> None:
    (tmp_path / "chat_template.json").write_text(content)
    with pytest.raises(StepError, match=r"chat_template\.json") as failed:
        ChatTemplate(tmp_path, SPECIAL)
    assert failed.value.code == "bad_base_model"


@pytest.mark.parametrize(
    "configured", ["here", [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "here"}]]
)
def test_a_template_is_found_in_the_tokenizers_configuration(tmp_path: Path, configured: Any) -> None:
    template = ChatTemplate(tmp_path, {"chat_template": configured})
    assert (template.source, template.render(MESSAGES)) == ("tokenizer_config.json", "here")


@pytest.mark.parametrize(
    "text",
    [
        "{% if %}",
        "{{ 'a' + 1 }}",
        "{{ nobody.there }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% for m in messages %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
        "{% for m in messages %}{{ loop._iterable[0] }}{% endfor %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_broken_or_hostile_template_fails_the_step(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepError) as caught:
        template(tmp_path, text).render(MESSAGES)
    assert caught.value.code == "template_failed"


def test_a_refusal_by_the_template_is_blamed_on_the_row(tmp_path: Path) -> None:
    with pytest.raises(TemplateRefusal, match="System role not supported"):
        template(tmp_path, "{{ raise_exception('System role not supported') }}").render(MESSAGES)


@pytest.mark.parametrize(
    ("model_type", "tokens", "begins"),
    [
        ("gemma", ("<start_of_turn>", "<end_of_turn>"), "<bos><start_of_turn>user\nHi<end_of_turn>"),
        ("gemma3n", ("<start_of_turn>", "<end_of_turn>"), "<bos><start_of_turn>user\nHi<end_of_turn>"),
        ("gemma4", ("<|turn>", "<turn|>"), "<bos><|turn>user\nHi<turn|>"),
        ("gemma4_unified", ("<|turn>", "<turn|>"), "<bos><|turn>user\nHi<turn|>"),
    ],
)
def test_a_base_model_without_a_template_gets_its_familys(
    tmp_path: Path, model_type: str, tokens: tuple[str, ...], begins: str
) -> None:
    template = ChatTemplate(base_without_template(tmp_path, model_type, *tokens), SPECIAL)
    assert template.render(MESSAGES).startswith(begins)
    assert template.turns is not None
    assert (template.turns.start, template.turns.end) == tokens


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma4"])
def test_a_vocabulary_without_the_familys_turn_tokens_gets_no_template(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(StepError) as refused:
        ChatTemplate(base_without_template(tmp_path, model_type, "<|im_start|>"), SPECIAL)
    assert refused.value.code == "template_missing"


LONG = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set it = namespace(x='x') %}{% for i in range(40) %}{% set it.x = it.x ~ it.x %}{% endfor %}"
# Nested lists, each holding the previous one twice: comparing two of them takes 2^60 steps within one operation.
COMPARES = """
{% set two = namespace(a=[1], b=[1]) %}
{% for i in range(60) %}{% set two.a = [two.a, two.a] %}{% set two.b = [two.b, two.b] %}{% endfor %}
{{ two.a == two.b }}
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG, "it takes more than 0.2 s of CPU time"),
        ("{% macro again() %}{{ again() }}{{ again() }}{% endmacro %}{{ again() }}", "0.2 s of CPU time|recursion"),
        ("{{ range(99999) | map('string') | map('length') | list | length }}" * 50, "0.2 s of CPU time"),
        (GROWS, "it takes more than 256 MiB of memory"),
        ("{{ messages[0].content * 10000000000 }}", "it takes more than 256 MiB of memory"),
        ("{{ messages[0].content.ljust(10000000000) }}", "it takes more than 256 MiB of memory"),
        ("{{ 'x' * 10000000000 }}", "it takes more than 256 MiB of memory"),  # already when the template is compiled
        ("{{ 'x' * 9000000 }}", "it writes more than 8388608 characters for one conversation"),
        ("{% for i in range(100000) %}{{ messages[0].content * 100 }}{% endfor %}", "more than 8388608 characters"),
    ],
)
def test_a_template_that_exceeds_a_limit_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    if "CPU time" in reason:  # not for the others: on a busy machine they would exceed it first
        monkeypatch.setattr(render_limits, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(render_limits, "MEMORY_BYTES", 256 * 2**20)
    with pytest.raises(StepError, match=reason) as failed:
        template(tmp_path, text).render(MESSAGES)
    assert failed.value.code == "template_failed"


def test_limits_apply_to_each_rendering_and_not_to_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_limits, "CPU_SECONDS", 0.2)
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    fine = template(tmp_path, "{{ messages[0].content }}")
    with pytest.raises(StepError):
        template(tmp_path, LONG).render(MESSAGES)
    with pytest.raises(StepError):
        template(tmp_path, "{{ nothing.at.all }}").render(MESSAGES)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)] == before
    spent = time.process_time()
    while time.process_time() - spent < 0.5:  # more CPU time than one rendering may take
        assert fine.render(MESSAGES) == "Hi"


def test_renderings_share_a_limit_of_memory_and_have_their_own_of_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_limits, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(render_limits, "MEMORY_BYTES", 256 * 2**20)
    limits = [resource.RLIMIT_CPU, resource.RLIMIT_AS]
    before = [resource.getrlimit(kind) for kind in limits]
    with render_limits.SharedLimits():
        lowered = resource.getrlimit(resource.RLIMIT_AS)
        assert lowered != before[1]
        spent = time.process_time()
        while time.process_time() - spent < 0.5:
            assert template(tmp_path, "{{ messages[0].content }}").render(MESSAGES) == "Hi"
        for text, reason in ((LONG, "CPU time"), ("{{ messages[0].content * 10000000000 }}", "memory")):
            with pytest.raises(StepError, match=reason):
                template(tmp_path, text).render(MESSAGES)
        assert resource.getrlimit(resource.RLIMIT_AS) == lowered
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert [resource.getrlimit(kind) for kind in limits] == before


def test_limits_are_restored_if_the_time_ends_with_the_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [resource.RLIMIT_CPU, resource.RLIMIT_AS]
    before = [resource.getrlimit(kind) for kind in kinds]
    fine, set_timer = template(tmp_path, "{{ messages[0].content }}"), signal.setitimer

    def end_late(timer: int, seconds: float) -> None:
        set_timer(timer, seconds)
        if not seconds:
            os.kill(os.getpid(), signal.SIGPROF)

    monkeypatch.setattr(signal, "setitimer", end_late)
    with pytest.raises(StepError, match="of CPU time"):
        fine.render(MESSAGES)
    assert [resource.getrlimit(kind) for kind in kinds] == before


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of ticks is Linux's")
def test_the_limit_of_cpu_time_is_counted_by_the_clock_that_it_ends_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """ITIMER_PROF counts by it too; time.process_time() is another clock."""
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    while time.clock_gettime(render_limits.TICKS) < 1:
        pass
    with render_limits.RenderLimits():
        left = resource.getrlimit(resource.RLIMIT_CPU)[0] - time.clock_gettime(render_limits.TICKS)
        timer, _ = signal.getitimer(signal.ITIMER_PROF)
    assert 0 <= left - timer - render_limits.LAST_SECONDS < 1.1


def test_limits_of_the_process_are_left_alone_in_other_threads(tmp_path: Path) -> None:
    fine = template(tmp_path, "{{ messages[0].content }}")
    with render_limits.SharedLimits(), ThreadPoolExecutor(1) as pool:
        lowered = resource.getrlimit(resource.RLIMIT_CPU)
        with pytest.raises(StepError, match="main thread"):
            pool.submit(fine.render, MESSAGES).result()
        assert resource.getrlimit(resource.RLIMIT_CPU) == lowered


def test_an_uninterruptible_rendering_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(COMPARES)
    program = (
        "import sys; from pathlib import Path; from trainer.conversation import render_limits\n"
        "from trainer.conversation.chat_template import ChatTemplate\n"
        "render_limits.CPU_SECONDS, render_limits.LAST_SECONDS = 0.1, 1\n"
        "ChatTemplate(Path(sys.argv[1]), {}).render([{'role': 'user', 'content': 'Hi'}])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGXCPU, ended.stderr


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_a_template_in_a_pipe_or_a_huge_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "chat_template.jinja"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("x" * (1024 * 1024 + 1))
    with pytest.raises(StepError, match=r"chat_template\.jinja") as failed:
        ChatTemplate(tmp_path, SPECIAL)
    assert failed.value.code == "bad_base_model"
