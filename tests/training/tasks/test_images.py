"""A causal model over the bytes of images: its configuration, its score, what it samples."""

import math

import numpy as np
import pytest
import torch
from transformers import set_seed

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.data.images import START, ImageBytes
from reformer_hf.training.tasks.images import (
    ImageModelArguments,
    ImageTrainingArguments,
    build_config,
    sample_images,
    score_images,
)
from reformer_hf.training.trainer import SealedCheckpoints

SHAPE = [4, 3, 3]
TINY = (
    "hidden_size=16,attn_layers=[local,lsh],feed_forward_size=16,local_attn_chunk_length=8,"
    "lsh_attn_chunk_length=8"
)


@pytest.fixture
def model():
    set_seed(0)
    model = ReformerHFForCausalLM(build_config(TINY, SHAPE))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    (tmp_path / "images.bin").write_bytes(pixels.tobytes())
    return ImageBytes(tmp_path / "images.bin", SHAPE)


def test_positions_have_an_axis_each_for_rows_columns_and_channels():
    config = build_config(TINY, [64, 64, 3])
    assert config.axial_pos_shape == [64, 64, 3] and config.position_limit == 12_288
    assert config.axial_pos_embds_dim == [5, 5, 6]
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id) == (257, START, None)
    with pytest.raises(ValueError, match="hidden_size=2: three axes"):
        build_config("hidden_size=2,num_attention_heads=1", SHAPE)


@pytest.mark.parametrize(
    "field",
    ["vocab_size=10", "axial_pos_shape=[4,4]", "is_decoder=false"],
)
def test_what_the_images_decide_is_refused(field):
    with pytest.raises(ValueError, match=f"the images decide '{field.partition('=')[0]}'"):
        build_config(f"{TINY},{field}", SHAPE)


def test_the_score_counts_every_byte_of_every_image_once(model, images):
    expected = 0.0
    for pixels in images.pixels:
        content = torch.from_numpy(pixels.flatten().astype(np.int64))
        ids = torch.cat([torch.tensor([START]), content])
        with torch.no_grad():
            logits = model.eval()(ids[None, :-1]).logits[0]
        expected -= float(logits.log_softmax(-1).gather(1, content[:, None]).sum())
    model.train()
    score = score_images(model, images, batch_size=2)
    assert model.training
    assert score.bits_per_dim == pytest.approx(expected / math.log(2) / (5 * 36), rel=1e-5)
    assert (score.images, score.dims) == (5, 36)


def test_trainer_counts_the_last_byte_too(model, images, tmp_path):
    steps = {"max_steps": 2, "warmup_steps": 1, "logging_steps": 1, "eval_steps": 2}
    arguments = ImageTrainingArguments(str(tmp_path), **steps, use_cpu=True, save_strategy="no")
    losses = []
    model.register_forward_hook(lambda module, args, output: losses.append(output.loss.item()))
    trainer = SealedCheckpoints(model, arguments, train_dataset=images, eval_dataset=images)
    trainer.train()
    state = trainer.state
    (evaluated,) = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    score = score_images(model, images)
    assert evaluated / math.log(2) == pytest.approx(score.bits_per_dim, rel=1e-4)
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses[:2], rel=1e-4)


def test_samples_are_whole_images_of_bytes_and_repeatable(model):
    with torch.no_grad():
        model.lm_head.decoder.weight.zero_()  # the same distribution at each place
        model.lm_head.bias[START] = 20.0  # the likeliest token, which is no byte
        model.lm_head.bias[250:256] = torch.linspace(9.0, 8.5, 6)
    samples = []
    for seed in (0, 0, 1):
        set_seed(seed)
        samples.append(sample_images(model.eval(), count=3))
    assert samples[0].shape == (3, *SHAPE) and samples[0].dtype == np.uint8
    assert (samples[0] == samples[1]).all() and (samples[0] != samples[2]).any()
    assert (samples[0] >= 250).mean() > 0.9 and len(np.unique(samples[0])) > 5


def test_a_begun_image_is_completed(model, images):
    begun = torch.from_numpy(np.array(images.pixels[:2, :2])).flatten(1)
    completed = sample_images(model.eval(), begun)
    assert (completed[:, :2] == images.pixels[:2, :2]).all()
    assert (completed[0, 2:] != completed[1, 2:]).any()
    with pytest.raises(ValueError, match="begun has 36 bytes, all 36"):
        sample_images(model, torch.zeros(1, 36))


def test_a_low_temperature_takes_the_likeliest_byte(model):
    with torch.no_grad():
        model.lm_head.bias[77] = 9.0
    assert (sample_images(model.eval(), temperature=0.01) == 77).all()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ImageModelArguments, {"temperature": 0.0}, "temperature=0.0: must be above 0"),
        (ImageModelArguments, {"num_samples": 0}, "num_samples=0"),
        (ImageTrainingArguments, {"max_minutes": -2.0}, "max_minutes=-2.0"),
        (ImageTrainingArguments, {"do_eval": False}, "do_eval=False: this script trains and eval"),
    ],
)
def test_impossible_values_are_named(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
