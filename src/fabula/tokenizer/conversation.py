"""How does Fabula write a conversation? The template of its own tokenizers, in their own control tokens.

A document begins as every document does; each message is its role, its content, and an end that belongs to the message:
the assistant's content and end stand inside {% generation %}, so the loss mask is the template's own.
"""

from __future__ import annotations

from fabula.tokenizer.special import SPECIAL_TEXT

FILE = "chat_template.jinja"

_BEGIN, _END = SPECIAL_TEXT["end_of_document"], SPECIAL_TEXT["end_of_turn"]
_SYSTEM, _USER, _ASSISTANT = SPECIAL_TEXT["system"], SPECIAL_TEXT["user"], SPECIAL_TEXT["assistant"]

DEFAULT = f"""{{{{- '{_BEGIN}' -}}}}
{{%- for message in messages -%}}
    {{%- if message.content is not string -%}}
        {{{{- raise_exception('the content of a message is a text') -}}}}
    {{%- elif message.role == 'assistant' -%}}
        {{{{- '{_ASSISTANT}' -}}}}
        {{%- generation -%}}{{{{- message.content + '{_END}' -}}}}{{%- endgeneration -%}}
    {{%- elif message.role == 'user' -%}}
        {{{{- '{_USER}' + message.content + '{_END}' -}}}}
    {{%- elif message.role == 'system' -%}}
        {{{{- '{_SYSTEM}' + message.content + '{_END}' -}}}}
    {{%- else -%}}
        {{{{- raise_exception('the role of a message is system, user or assistant, not ' + message.role) -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '{_ASSISTANT}' -}}}}{{%- endif -%}}
"""
