"""What a captioner is asked beside the plain question about a clip; checked before a run exists."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.templates import shipped
from tasks.judge_prompts import needs


class CaptionPrompts(BaseModel):
    """What the captioner is asked where clips depend on each other, on the question or on an earlier narrative, or are
    summarised.
    """

    model_config = ConfigDict(extra="forbid")

    next: Annotated[str, needs("previous")] = Field(
        default=shipped("clip_caption_next"),
        description="Mode dependent: asked about every clip but the first, with the caption before it at {previous}.",
    )
    question: Annotated[str, needs("question")] = Field(
        default=shipped("clip_caption_question"),
        description="With condition_on_question: asked about a clip in place of captions.prompt, with {question}.",
    )
    question_next: Annotated[str, needs("question", "previous")] = Field(
        default=shipped("clip_caption_question_next"), description="Both: {question} and {previous}."
    )
    refine: Annotated[str, needs("previous")] = Field(
        default=shipped("clip_caption_refine"),
        description="Where a narrative refines an earlier one: asked about every clip, with the caption that it has "
        "there at {previous}.",
    )
    question_refine: Annotated[str, needs("question", "previous")] = Field(
        default=shipped("clip_caption_question_refine"),
        description="The same with condition_on_question: {question} and {previous}.",
    )
    summary: Annotated[str, needs("captions")] = Field(
        default=shipped("captions_summary"),
        description="Aggregate summarise: asked without frames, with the joined captions at {captions}.",
    )
    question_summary: Annotated[str, needs("question", "captions")] = Field(
        default=shipped("captions_summary_question"),
        description="The same with condition_on_question: {question} and {captions}.",
    )
