"""Shapes of requests and answers, version 1."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifyRequest(_Shape):
    """Sentences to classify, in order."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"sentences": ["We are ready to meet them anywhere, any time."]}]},
    )

    sentences: Annotated[list[str], FailFast()]  # one fault is reported, not one for each of 100,000 numbers
    explain: bool = Field(False, description="also give each word's contribution to its sentence's label")


class StreamLine(_Shape):
    """A line of a stream: a sentence, and whatever `id` its answer is to carry."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"id": 1, "sentence": "We are ready to meet them anywhere, any time."}]},
    )

    sentence: str
    id: str | int | None = None


class ModelName(_Shape):
    """The model that answered: `id` is the digest of its manifest and so of every byte of it."""

    name: str
    version: str
    id: str


class WordContribution(_Shape):
    """A word's place in the sentence as sent, in Unicode code points, and what an ellipsis in its place takes."""

    start: int
    end: int = Field(description="one past the last character")
    contribution: float = Field(description="from -1 to 1; positive speaks for the label")


class Result(_Shape):
    """One sentence's answer; `score` is P(positive pole) - P(negative pole), `confident` false asks for a reader."""

    label: str
    probabilities: dict[str, float]
    score: float | None = Field(description="from -1 to 1; null where the label set has no poles")
    confident: bool
    truncated: bool


class ExplainedResult(Result):
    """The answer where the request says explain: true."""

    words: list[WordContribution]


class StreamResult(Result):
    """A line of the answer to a stream; `model` is the id of the model that answered."""

    id: str | int | None = None
    model: str


class ClassifyResponse(_Shape):
    """Results in the order of the sentences."""

    model: ModelName
    results: list[Result] | list[ExplainedResult]


class ModelResponse(_Shape):
    """What is known of the model that answers now."""

    name: str
    version: str
    id: str
    labels: list[str]
    base_model: str
    max_tokens: int
    temperature: float
    confidence_threshold: float
    metrics: dict[str, dict[str, float]]
    card: str
    following: "FollowingBody | None" = Field(description="how the service keeps up with the registry; null where it does not")


class FollowingBody(_Shape):
    """The alias that is followed, when it was last looked at (UTC), models taken over so far, and what went wrong last."""

    model: str
    asked: str | None
    swaps: int
    error: str | None


class ReloadResponse(_Shape):
    """Whether another model was taken over, and which one answers now."""

    swapped: bool
    version: str
    id: str


class ProblemBody(_Shape):
    """An error (RFC 9457): `code` is stable, `detail` says what was wrong and what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = Field(description="a URN of this one answer; the log names it where the service failed")
    code: str
    errors: list[dict[str, str]] | None = Field(
        None, description="where the fault lies: `pointer` (a JSON pointer into the body, as a fragment) and `detail`"
    )
