"""What judges and rankers are asked: texts that are checked before a run exists."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.templates import checked, shipped


def needs(*slots: str) -> AfterValidator:
    """Checks a prompt field: its placeholders are exactly `slots`."""
    return AfterValidator(lambda text: checked(text, *slots))


class JudgePrompts(BaseModel):
    """What the judge is asked; an arm uses one of the eight."""

    model_config = ConfigDict(extra="forbid")

    likelihood: Annotated[str, needs("question")] = Field(
        default=shipped("judge_likelihood"),
        description="Method likelihood: what the answers reply to, with {question}.",
    )
    likelihood_context: Annotated[str, needs("context", "question")] = Field(
        default=shipped("judge_likelihood_context"), description="The same with the narrative at {context}."
    )
    verdict: Annotated[str, needs("question", "a", "b")] = Field(
        default=shipped("judge_verdict"),
        description="Method verdict: {question}, answers {a} and {b}; asks for A or B.",
    )
    verdict_context: Annotated[str, needs("context", "question", "a", "b")] = Field(
        default=shipped("judge_verdict_context"), description="The same with the narrative at {context}."
    )
    endpoint: Annotated[str, needs("question", "a", "b")] = Field(
        default=shipped("judge_endpoint"),
        description="A judge behind an endpoint: {question}, answers {a} and {b}, each put in as a JSON string; asks "
        "for an object with verdict and reason.",
    )
    endpoint_context: Annotated[str, needs("context", "question", "a", "b")] = Field(
        default=shipped("judge_endpoint_context"), description="The same with the narrative at {context}."
    )
    human: str = Field(
        default=shipped("judge_human"),
        min_length=1,
        description="A person: what stands above question and answers, which the page shows itself.",
    )
    human_context: str = Field(
        default=shipped("judge_human_context"), min_length=1, description="The same where there is a narrative."
    )


class RankPrompts(BaseModel):
    """What a listwise ranker is asked."""

    model_config = ConfigDict(extra="forbid")

    listwise: Annotated[str, needs("question", "answers")] = Field(
        default=shipped("rank_listwise"),
        description="Asks for the order of {answers}, which are labelled A, B, ..., to {question}.",
    )
    listwise_context: Annotated[str, needs("context", "question", "answers")] = Field(
        default=shipped("rank_listwise_context"), description="The same with the narrative at {context}."
    )
