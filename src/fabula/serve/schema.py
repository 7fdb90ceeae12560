"""What may a request say, and what does an answer hold? The types of the protocol, with their limits.

Strict: no text is taken for a number, no unknown key is passed over. OpenAI's names where OpenAI has one. The OpenAPI
document is made of these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fabula.serve import config as limits

Id = Annotated[int, Field(ge=0, lt=1 << 31)]
# Half a million wrong numbers are told as one.
Ids = Annotated[list[Id], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=limits.MOST_STOP)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


Prompt = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=limits.MOST_PROMPTS, fail_fast=True)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=limits.MOST_PROMPTS)]
)


class Said(BaseModel):
    """What comes from outside."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Said):
    """What a stream tells beside the text."""

    include_usage: bool | None = Field(None, description="a last chunk with the number of tokens")
    include_obfuscation: bool | None = Field(None, description="accepted and without effect")


class Writing(Said):
    """How a text is written: the settings that completions and chats share."""

    model: Name | None = Field(None, description="a name from /v1/models; the first one if left out")
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description=f"most tokens to write, {limits.USUAL_TOKENS} by default; never more than the context holds"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="1 by default; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = Field(None, description="0 keeps all")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    no_repeat_ngram: Annotated[int, Field(ge=0, le=64)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = Field(
        None, description="the same seed gives the same text; the choices of n take it and those after it"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=limits.MOST_STOPS)] | None = Field(
        None, description="texts that end the writing; they are not part of it"
    )
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=limits.MOST_BIASES),
        ]
        | None
    ) = Field(None, description="added to the logits of ids")
    n: Annotated[int, Field(ge=1, le=limits.MOST_CHOICES)] | None = Field(None, description="texts to write")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = Field(None, description="accepted and kept nowhere")

    @model_validator(mode="after")
    def _options(self) -> Writing:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for streams: set stream to true")
        return self

    def stops(self) -> tuple[str, ...]:
        """The stop sequences."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class SchemaFormat(Said):
    """A JSON schema, and what it is called."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: dict[str, Any] = Field(alias="schema")
    description: Annotated[str, Field(max_length=2000)] | None = None
    strict: bool | None = None


class ResponseFormat(Said):
    """What the text must be: anything, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema belongs to the type "json_schema", and only there')
        return self


class CompletionRequest(Writing):
    """A text to go on with."""

    prompt: Prompt = Field("", description="a text, ids, or several of either")
    best_of: Annotated[int, Field(ge=1, le=limits.MOST_CHOICES)] | None = Field(
        None, description="texts to write, of which the n likeliest a token are given; not for streams"
    )
    echo: bool | None = Field(None, description="begin the answer with the prompt; not together with logprobs")
    logprobs: Annotated[int, Field(ge=0, le=limits.MOST_LOGPROBS)] | None = Field(
        None, description="log-probabilities of the tokens and of so many likeliest ones"
    )
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        n, best = self.n or 1, self.best_of
        if best is not None and best < n:
            raise ValueError(f"best_of={best} must be at least n={n}")
        if best is not None and best > n and self.stream:
            raise ValueError("best_of and stream exclude each other: the best is known at the end")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs: the log-probabilities of a prompt are not served")
        several = 1 if isinstance(self.prompt, str) or not isinstance(self.prompt[0], (str, list)) else len(self.prompt)
        if several * max(n, best or 1) > limits.MOST_CHOICES:
            raise ValueError(f"{several} prompts of {max(n, best or 1)} texts: at most {limits.MOST_CHOICES} together")
        return self

    def prompts(self) -> list[str | list[int]]:
        """The beginnings, one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], (str, list)):
            return list(self.prompt)
        return [self.prompt]


class TextPart(Said):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Said):
    """Who says what."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(max_length=256)] | None
    name: Annotated[str, Field(max_length=64)] | None = None

    def plain(self) -> dict[str, str]:
        """As a chat template takes it. OpenAI's newer name of the system is the older one."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content or [])
        made = {"role": "system" if self.role == "developer" else self.role, "content": content}
        return made if self.name is None else {**made, "name": self.name}


Messages = Annotated[list[Message], Field(min_length=1, max_length=limits.MOST_MESSAGES, fail_fast=True)]


class ChatRequest(Writing):
    """A conversation to answer."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="the newer name of max_tokens"
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same: give one")
        return self


class EmbeddingRequest(Said):
    """Texts to turn into vectors."""

    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=limits.MOST_TEXTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=limits.MOST_TEXTS, fail_fast=True)]
    )
    model: Name | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        None, description="only the model's own width can be had"
    )
    user: Annotated[str, Field(max_length=512)] | None = None

    def texts(self) -> list[str | list[int]]:
        """The texts, one by one."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], (str, list)):
            return list(self.input)
        return [self.input]


class TokenizeRequest(Said):
    """A text, or a conversation, to cut into tokens."""

    model: Name | None = None
    text: Annotated[str, Field(max_length=limits.MOST_TOKENIZED)] | None = None
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give text or messages")
        return self


class DetokenizeRequest(Said):
    """Ids to turn into text."""

    model: Name | None = None
    tokens: Annotated[list[Id], Field(max_length=limits.MOST_TOKENIZED, fail_fast=True)]


class GenerateRequest(Writing):
    """A text to go on with, told token by token with what else was likely."""

    prompt: str | Ids = Field(
        "", description="a text, or ids of text: another token in the place of one goes on from ids"
    )
    alternatives: Annotated[int, Field(ge=0, le=limits.MOST_LOGPROBS)] | None = Field(
        None, description="likeliest tokens that are told at each place; 5 by default"
    )


class EvolutionRequest(Said):
    """A beginning that every saved checkpoint goes on with."""

    model: Name | None = None
    prompt: str = ""
    max_tokens: Annotated[int, Field(ge=1, le=limits.MOST_EVOLVED)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None


# ---- answers -----------------------------------------------------------------------------------------------------


class Usage(BaseModel):
    """Tokens of a request. What ends a text counts as a token that was written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    """Log-probabilities under the model itself, before temperature and filters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text of a completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The answer to a completion, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TokenLogprob(BaseModel):
    """A token with its bytes and log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TokenLogprob):
    """A written token and what else was likely."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    """The tokens of a message."""

    content: list[ChatToken]


class ChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer to a conversation."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parameters: int
    context_length: int
    vocab_size: int
    checkpoint: str | None
    chat: bool
    deterministic: bool


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


class Embedding(BaseModel):
    """A text as a vector: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Texts as vectors: the mean of the last hidden states over the text's tokens."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class PieceOfText(BaseModel):
    """A token: its id, its bytes, and these as text where they are some."""

    id: int
    text: str
    bytes: list[int]
    control: bool


class Tokens(BaseModel):
    """A text in tokens."""

    model: str
    tokens: list[int]
    count: int
    context_length: int
    pieces: list[PieceOfText]


class Text(BaseModel):
    """The text of tokens; bytes that form no character are U+FFFD."""

    model: str
    text: str


class Health(BaseModel):
    """Whether the server takes requests."""

    status: Literal["ok", "stopping", "failed"]


class CheckpointCard(BaseModel):
    """A saved checkpoint of a run."""

    name: str
    step: int
    bits_per_byte: float | None


class CurvePoint(BaseModel):
    """The loss at a step, in nats a token, and in bits per byte where that was measured."""

    step: int
    kind: Literal["train", "evaluation"]
    loss: float | None
    bits_per_byte: float | None


class Checkpoints(BaseModel):
    """What a run saved and how it learnt."""

    model: str
    checkpoints: list[CheckpointCard]
    curve: list[CurvePoint]


class ErrorBody(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's form of an error."""

    error: ErrorBody
