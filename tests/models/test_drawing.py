"""Log-probabilities kept while drawing are those of the scores that `generate` would have kept."""

from __future__ import annotations

import pytest
import torch
from tiny import prompts_of, save_random

from models.sequences import left_pad
from models.settings import Sampling
from models.video_lm import VideoLM


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> VideoLM:
    return VideoLM.load(str(save_random(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=10),
        Sampling(temperature=0.6, max_new_tokens=10),
        Sampling(temperature=1.3, top_p=0.7, max_new_tokens=10),
        Sampling(temperature=0.0, max_new_tokens=10),
    ],
    ids=["plain", "cold", "nucleus", "greedy"],
)
def test_they_are_those_of_the_scores_of_all_steps(lm: VideoLM, sampling: Sampling) -> None:
    prompts = prompts_of(lm) * 2
    found = [response for (response,) in lm.generate(prompts, sampling, seed=4, logprobs=True)]
    ids, mask = left_pad([prompt.ids for prompt in prompts], lm.tokenizer.pad_token_id)
    torch.manual_seed(4)
    greedy = sampling.temperature == 0
    out = lm.core.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not greedy,
        temperature=None if greedy else sampling.temperature,
        top_p=None if greedy else sampling.top_p,
        top_k=None if greedy else 0,
        suppress_tokens=lm.suppressed,
        eos_token_id=lm.end_ids,
        pad_token_id=lm.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
        **lm.family.pack(lm.core, [prompt.visual for prompt in prompts]),
    )
    drawn, scores = out.sequences[:, ids.shape[1] :], torch.stack(out.scores, 1).log_softmax(-1)
    assert len({len(response.ids) for response in found}) > 1 or greedy
    for row, response in enumerate(found):
        length = len(response.ids)
        assert drawn[row, :length].tolist() == list(response.ids)
        assert response.logprobs == tuple(scores[row, range(length), list(response.ids)].tolist())


def test_only_one_step_of_scores_is_kept(lm: VideoLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    generate = lm.core.generate

    def watched(**inputs: object) -> object:
        asked.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(lm.core, "generate", watched)
    (response,) = lm.generate(prompts_of(lm)[:1], Sampling(max_new_tokens=5), logprobs=True)[0]
    assert len(response.logprobs) == len(response.ids)
    assert not asked[0].get("output_scores")
    (bare,) = lm.generate(prompts_of(lm)[:1], Sampling(max_new_tokens=5))[0]
    assert (bare.ids, bare.logprobs) == (response.ids, ())
