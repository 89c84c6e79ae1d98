"""Loads an export with the own loader of the library it is for, in that library's environment (perf/export_proof.sh).

    python export_load.py trl|llamafactory|ms-swift|verl FOLDER MODEL

FOLDER is what perf/export_proof.py wrote, MODEL the folder of a small model with a processor. Imports nothing of the
project but the mending of torchvision beside a CPU build of torch. Ends with an error unless every pair came through
with its question, both answers and its frames.
"""

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

MARK = "<video>"
Found = dict[str, Any]


def main() -> None:
    """Compare what the library loads with what was exported."""
    mend_torchvision()
    peer, folder, model = sys.argv[1], Path(sys.argv[2]).absolute(), Path(sys.argv[3]).absolute()
    expected = json.loads((folder / "expected.json").read_text())
    os.chdir(folder / peer)  # Paths are relative to the export's folder.
    found, also = LOADERS[peer](model)
    assert len(found) == len(expected), f"{len(found)} rows loaded, {len(expected)} exported"
    wanted = {(pair["question"], pair["chosen"], pair["rejected"]): pair["frames"] for pair in expected}
    for row in found:
        key = (row["question"], row["chosen"], row["rejected"])
        assert key in wanted, f"not exported so: {key}"
        assert row["frames"] == wanted.pop(key), f"other frames at {key}"
    assert not wanted, f"not loaded: {wanted}"
    print(f"{len(found)} pairs as exported; {also}")


def mend_torchvision() -> None:
    """The project has this as an entry point of torch, which these environments have not."""
    path = Path(__file__).parent.parent / "models" / "torchvision_ops.py"
    spec = importlib.util.spec_from_file_location("torchvision_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["torchvision_ops"] = importlib.util.module_from_spec(spec)  # Or torch forgets the operators.
    spec.loader.exec_module(module)
    module.declare()


def digests(paths: list[str]) -> list[str]:
    """SHA-256 of each file."""
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


def load_trl(model: Path) -> tuple[list[Found], str]:
    """datasets.load_dataset, then two steps of DPOTrainer with the small model."""
    from datasets import Image, List, load_dataset

    data = load_dataset("parquet", data_files="train.parquet", split="train")
    assert data.features["images"] == List(Image()), data.features
    rows = []
    for row, raw in zip(data, data.cast_column("images", List(Image(decode=False))), strict=True):
        assert all(picture.size == row["images"][0].size for picture in row["images"])
        said = {name: row[column][0]["content"] for name, column in (("question", "prompt"), *PLAIN)}
        rows.append({**said, "frames": [hashlib.sha256(image["bytes"]).hexdigest() for image in raw["images"]]})
    return rows, _train_dpo(data, model)


PLAIN = (("chosen", "chosen"), ("rejected", "rejected"))
# The small model's own template knows videos only.
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }} "
    "{% endif %}{% endfor %}{% if m['role'] == 'user' %}<ans>{% else %}<eos>{% endif %}{% endfor %}"
)


def _train_dpo(data: Any, model: Path) -> str:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    processor = AutoProcessor.from_pretrained(model)
    processor.chat_template = TEMPLATE
    with tempfile.TemporaryDirectory() as out:
        options = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "bf16": False}
        config = DPOConfig(output_dir=out, max_length=None, save_strategy="no", disable_tqdm=True, **options)
        policy = AutoModelForImageTextToText.from_pretrained(model, dtype="float32")
        trainer = DPOTrainer(model=policy, args=config, train_dataset=data, processing_class=processor)
        done = trainer.train()
    return f"trl.DPOTrainer took {done.global_step} steps on them, loss {done.training_loss:.4f}"


def load_llamafactory(model: Path) -> tuple[list[Found], str]:  # noqa: ARG001 - the others' arguments.
    """The loader of its data module, up to the rows that its processors tokenise."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    with tempfile.TemporaryDirectory() as out:
        data = DataArguments(dataset="rlaif_preferences", dataset_dir=".", media_dir=".")
        arguments = ModelArguments(model_name_or_path="none"), data, Seq2SeqTrainingArguments(output_dir=out)
        loaded = _get_merged_dataset(data.dataset, *arguments, stage="rm")
    rows = []
    for row in loaded:
        (asked,), (chosen, rejected), (video,) = row["_prompt"], row["_response"], row["_videos"]
        assert asked["role"] == "user"
        said = {"question": unmarked(asked["content"]), "chosen": chosen["content"], "rejected": rejected["content"]}
        rows.append({**said, "frames": digests(video)})
    return rows, f"columns {', '.join(sorted(loaded.column_names))}"


def load_ms_swift(model: Path) -> tuple[list[Found], str]:  # noqa: ARG001 - the others' arguments.
    """swift.dataset.load_dataset, strict, so that a row which it does not like ends it."""
    from swift.dataset import load_dataset

    loaded, _ = load_dataset(["train.jsonl"], strict=True)
    rows = []
    for row in loaded:
        asked, chosen = row["messages"]
        (video,) = row["videos"]
        said = {"question": unmarked(asked["content"]), "chosen": chosen["content"]}
        rows.append({**said, "rejected": row["rejected_response"], "frames": digests(video)})
    return rows, f"columns {', '.join(sorted(loaded.column_names))}"


def load_verl(model: Path) -> tuple[list[Found], str]:
    """RLHFDataset, and its own decoding of the frames."""
    from omegaconf import OmegaConf
    from transformers import AutoProcessor
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.dataset.vision_utils import process_video

    processor = AutoProcessor.from_pretrained(model)
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": tempfile.mkdtemp()})
    loaded = RLHFDataset("train.parquet", processor.tokenizer, config, processor=processor)
    rows, shapes = [], set()
    for place in range(len(loaded)):
        row = loaded[place]
        shown, asked = row["raw_prompt"][0]["content"]
        info = row["extra_info"]
        assert row["reward_model"]["ground_truth"] == info["chosen"]
        shapes.add(tuple(process_video(dict(shown)).shape))
        said = {"question": asked["text"], "chosen": info["chosen"], "rejected": info["rejected"]}
        rows.append({**said, "frames": digests(shown["video"])})
    return rows, f"frames decoded to {sorted(shapes)}"


def unmarked(content: str) -> str:
    """A question without the mark of the video."""
    assert content.startswith(MARK), content
    return content.removeprefix(MARK)


LOADERS = {"trl": load_trl, "llamafactory": load_llamafactory, "ms-swift": load_ms_swift, "verl": load_verl}

if __name__ == "__main__":
    main()
