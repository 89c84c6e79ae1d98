"""What a model is, and what is only how it is run."""

from tasks.model_ref import ModelRef


def test_four_bits_make_another_model_with_the_same_eyes_and_saving_memory_does_not() -> None:
    plain, rounded = ModelRef("base", "content"), ModelRef("base", "content", quantization="nf4")
    assert plain.identity != rounded.identity
    assert plain.tower == rounded.tower
    saving = ModelRef("base", "content", gradient_checkpointing=True, fit_memory=True)
    assert saving.identity == plain.identity
