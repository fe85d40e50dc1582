"""Models whose weights torchao has quantised: loaded, run, saved and loaded again."""

import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from reformer_hf import ReformerHFForConditionalGeneration, ReformerHFForSequenceClassification
from reformer_hf.models import quantised
from reformer_hf.models.quantised import Int8Linear, read_int8_directly
from tests.models.seq2seq import seq2seq_config
from tests.models.tiny import random_ids, tiny_config, tiny_lm

torchao = pytest.importorskip("torchao", reason="torchao, the extra `quantization`, is missing")
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig  # noqa: E402
from torchao.quantization import (  # noqa: E402
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)
from transformers import TorchAoConfig  # noqa: E402

WIDE = {
    "hidden_size": 32,
    "attention_head_size": 16,
    "feed_forward_size": 64,
    "axial_pos_embds_dim": [16, 16],
}
INT8 = Int8WeightOnlyConfig()
DYNAMIC = Int8DynamicActivationInt8WeightConfig()
INT4 = PrototypeInt4WeightOnlyConfig(group_size=32)
INT4_SAVED = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
IDS = random_ids(2, 13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    tiny_lm(**WIDE).save_pretrained(path)
    return path


def load(folder, quant_type, dtype=torch.bfloat16, cls=AutoModelForCausalLM, **options):
    config = TorchAoConfig(quant_type, modules_to_not_convert=options.pop("skipped", None))
    return cls.from_pretrained(folder, dtype=dtype, quantization_config=config, **options).eval()


def linears(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize(
    ("quant_type", "dtype", "error", "kind"),
    [
        (INT8, torch.float32, 0.06, Int8Linear),
        (INT8, torch.bfloat16, 0.06, Int8Linear),
        (DYNAMIC, torch.bfloat16, 0.06, nn.Linear),
        (INT4_SAVED, torch.float32, 0.3, nn.Linear),
        (INT4, torch.bfloat16, 0.3, nn.Linear),
    ],
    ids=["int8 float32", "int8", "dynamic", "int4 saved", "int4"],
)
def test_a_quantised_model_predicts_writes_and_is_saved(
    quant_type, dtype, error, kind, folder, tmp_path
):
    plain = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    model = load(folder, quant_type, dtype)
    for name, module in linears(model).items():
        quantised_weight = type(module.weight) is not nn.Parameter
        assert quantised_weight == (name != "lm_head.decoder"), name
        assert type(module) is (kind if quantised_weight else nn.Linear), name
    logits = model(IDS).logits
    assert logits.dtype == dtype
    assert 0 < (logits - plain).square().mean().sqrt() < error * plain.std()
    written = model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert written.shape == (2, 17)
    if quant_type is INT4:
        with pytest.raises(ValueError, match="Unsupported tensor type"):
            model.save_pretrained(tmp_path)
        return
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(IDS).logits, logits)
    assert torch.equal(again.generate(IDS, max_new_tokens=4, do_sample=False), written)
    assert all(
        type(module) is type(linears(model)[name]) for name, module in linears(again).items()
    )


@pytest.mark.parametrize("tied", [False, True])
def test_an_encoder_decoder_is_quantised_saved_and_searches_with_beams(tied, tmp_path):
    """Its weights lie at uneven places in the file, where the int8 kernel would crash."""
    torch.manual_seed(0)
    config = seq2seq_config(tie_word_embeddings=tied, **WIDE)
    ReformerHFForConditionalGeneration(config).save_pretrained(tmp_path / "plain")
    model = load(tmp_path / "plain", INT8, cls=AutoModelForSeq2SeqLM)
    left = [name for name, m in linears(model).items() if not isinstance(m, Int8Linear)]
    assert left == ["lm_head.decoder"]
    written = model.generate(IDS, max_new_tokens=4, num_beams=2)
    model.save_pretrained(tmp_path / "int8")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "int8").eval()
    assert torch.equal(again.generate(IDS, max_new_tokens=4, num_beams=2), written)


def test_a_classifier_keeps_its_head_as_asked(tmp_path):
    torch.manual_seed(0)
    ReformerHFForSequenceClassification(tiny_config(**WIDE)).save_pretrained(tmp_path)
    cls = AutoModelForSequenceClassification
    model = load(tmp_path, INT8, cls=cls, skipped=["classifier", ".*feed_forward"])
    kept = {name for name, m in linears(model).items() if not isinstance(m, Int8Linear)}
    assert kept == {
        name for name in linears(model) if "feed_forward" in name or "classifier" in name
    }
    assert model(IDS[:1]).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("quant_type", [INT8, DYNAMIC], ids=["int8", "dynamic"])
def test_weights_are_not_cut_by_heads_and_the_loss_comes_in_pieces(quant_type, folder):
    """Both read a weight beside the forward of its layer, where they can."""
    whole = load(folder, quant_type, torch.float32, skipped=[])
    options = {"chunk_size_attention_heads": 1, "chunk_size_lm_head": 4}
    pieces = load(folder, quant_type, torch.float32, skipped=[], **options)
    assert type(pieces.lm_head.decoder.weight) is not nn.Parameter
    assert_close(pieces(IDS, labels=IDS).loss, whole(IDS, labels=IDS).loss)
    pieces.train()
    pieces.config.redraw_rotations = False
    assert_close(pieces(IDS, labels=IDS).loss, whole(IDS, labels=IDS).loss)


def quantised_linear(bias, shift=0):
    """A layer whose int8 numbers begin `shift` bytes behind an even place."""
    torch.manual_seed(0)
    linear = nn.Linear(32, 24, bias=bias).bfloat16()
    quantize_(linear, INT8)
    data = linear.weight.qdata
    linear.weight.qdata = torch.empty(data.numel() + 64, dtype=torch.int8)[shift:][: data.numel()]
    linear.weight.qdata = linear.weight.qdata.view_as(data).copy_(data)
    read_int8_directly(linear)
    return linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shift", [0, 8])
@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (3, 5), (0, 1)])
def test_int8_read_directly_is_the_product(shape, shift, bias, monkeypatch):
    linear = quantised_linear(bias, shift)
    x = torch.randn(*shape, 64).bfloat16()[..., ::2]  # which the kernel would refuse
    exact = x.float() @ linear.weight.dequantize(torch.float32).T
    exact = exact + linear.bias.float() if bias else exact
    plain = nn.Linear.forward
    called = []
    monkeypatch.setattr(nn.Linear, "forward", lambda *args: called.append(1) or plain(*args))
    with torch.no_grad():
        # The scale, the product and the sum with the bias are each rounded to 8 bits.
        assert_close(linear(x).float(), exact, rtol=2**-6, atol=2**-6)
    assert bool(called) == (not 0 < shape[0] * shape[1] <= quantised.MOST_TOKENS)


def test_gradients_and_uneven_widths_are_left_to_torchao():
    linear = quantised_linear(bias=True)
    x = torch.randn(1, 32).bfloat16().requires_grad_()
    linear(x).sum().backward()
    weight = linear.weight.dequantize(torch.float32)
    assert_close(x.grad.float(), weight.sum(0, keepdim=True), rtol=2**-5, atol=2**-5)
    uneven = nn.Linear(24, 8, bias=False).bfloat16()
    quantize_(uneven, INT8)
    weight = uneven.weight.dequantize(torch.float32)
    read_int8_directly(uneven)
    x = torch.randn(1, 24).bfloat16()
    with torch.no_grad():
        assert_close(uneven(x).float(), x.float() @ weight.T, rtol=2**-5, atol=2**-5)


def test_without_torchao_a_quantised_model_names_the_extra(folder, tmp_path, monkeypatch):
    load(folder, INT8).save_pretrained(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"reformer_hf\[quantization\]"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("skipped", [None, [".*controller", "lm_head"]])
def test_of_sparse_layers_the_linear_ones_are_quantised(tmp_path, skipped):
    sparse = {"ff_sparsity": 16, "attention_sparsity": 2, "lm_head_sparsity": 4, "ff_sru_size": 16}
    tiny_lm(**WIDE, **sparse).save_pretrained(tmp_path / "plain")
    model = load(tmp_path / "plain", INT8, skipped=skipped)
    kept = {name for name, m in linears(model).items() if not isinstance(m, Int8Linear)}
    assert kept == {name for name in linears(model) if skipped and "controller" in name}
    assert model.reformer.encoder.layers[0].feed_forward.up_weight.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "int8")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "int8").eval()
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(again.generate(IDS, **options), model.generate(IDS, **options))
