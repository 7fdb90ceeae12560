"""Chat templates of the published kinds, written from their formats, and conversations to render with them."""

from __future__ import annotations

from typing import Any

CHATML = """
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif -%}
{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

# The header of a message between two control tokens; contents without the blanks around them.
LLAMA3 = """
{{- bos_token }}
{% for m in messages %}
{%- set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' %}
{{- text }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# Two roles by other names; what the system says goes before what the user says first.
GEMMA = """
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set before, rest = messages[0]['content'] ~ '\n\n', messages[1:] -%}
{%- else -%}
    {%- set before, rest = '', messages -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('user and assistant take turns') }}
    {%- endif -%}
    {%- set role = {'assistant': 'model'}.get(m['role'], m['role']) -%}
    {{ '<start_of_turn>%s\n' % role + (before if loop.first else '') }}
    {%- if m['content'] is string -%}
        {{ m['content'] | trim }}
    {%- else -%}
        {%- for part in m['content'] -%}{{ part['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""

# Roles are words between bars, but no tokens of their own.
ZEPHYR = """
{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

# Instructions between brackets; the assistant's words end a document.
MISTRAL = """
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for m in messages -%}
    {%- if m.role == 'system' -%}{%- set ns.system = m.content + '\n\n' -%}{%- continue -%}{%- endif -%}
    {%- if m.role == 'user' -%}
        {{- '[INST] ' ~ ns.system ~ m.content ~ ' [/INST]' -}}{%- set ns.system = '' -%}
    {%- else -%}
        {{- ' ' ~ m.content ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

# With the assistant's part marked, reasoning cut off by its end, a macro, a block that is set, tools as JSON.
MARKED = """
{%- macro turn(role) -%}
    {{- '<|im_start|>' ~ role ~ '\n' ~ caller() ~ '<|im_end|>\n' -}}
{%- endmacro -%}
{%- if tools -%}
    {%- set said -%}You may call:{%- for tool in tools %} {{ tool | tojson }}{%- endfor -%}{%- endset -%}
    {%- call turn('system') -%}{{ said }}{%- endcall -%}
{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {{- '<|im_start|>assistant\n' -}}
        {%- generation -%}
            {{- m.content.split('</think>')[-1].lstrip('\n') -}}
            {%- for call in m.tool_calls or [] -%}
                {{- ['<tool>', call.function.name, ' ', call.function.arguments | tojson, '</tool>'] | join -}}
            {%- endfor -%}
            {{- '<|im_end|>' -}}
        {%- endgeneration -%}
        {{- '\n' -}}
    {%- else -%}
        {%- call turn(m.role) -%}{{ m.content }}{%- endcall -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

# name -> the template, its control tokens (the last one ends a document), the token that begins one
HOUSES: dict[str, tuple[str, list[str], str | None]] = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], None),
    "llama3": (
        LLAMA3,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"],
        "<|begin_of_text|>",
    ),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"], "<bos>"),
    "zephyr": (ZEPHYR, ["<s>", "<unk>", "</s>"], "<s>"),
    "mistral": (MISTRAL, ["<s>", "[INST]", "[/INST]", "</s>"], "<s>"),
    "marked": (MARKED, ["<|im_start|>", "<|im_end|>", "<tool>", "</tool>", "<|endoftext|>"], None),
}

_TEXTS = [
    "Hola.",
    "  ¿Qué tal, niña?  ",
    "uno\n\ndos\n",
    "\n\n  sangrado\n",
    "漢字 y 🦊",
    "don't — «sí»",
    "x",
    "",
    " ",
    "12345 6789",
    "e\u0301l y él",
    "def f(x):\n    return x\n",
    "a" * 60,
    "<b>negrita</b> & [corchetes] {llaves} {{ x }} {% y %}",
]


def conversations() -> list[list[dict[str, Any]]]:
    """Conversations without anything that looks like a control token: one to six turns, with a system and without."""
    made: list[list[dict[str, Any]]] = []
    for start in range(len(_TEXTS)):
        text = [_TEXTS[(start + step) % len(_TEXTS)] for step in range(6)]
        turns = [{"role": ("user", "assistant")[n % 2], "content": text[n]} for n in range(1 + start % 5)]
        made.append(turns)
        made.append([{"role": "system", "content": text[5]}, *turns, *([] if len(turns) % 2 else turns[:1])])
    return made
