"""Loading real checkpoints from folders, widening, and refusing what is not supported."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from autodraft.errors import InputError, ModelNotFoundError, UnsupportedModelError
from autodraft.runtime import Rows, build_runtime, load_hf_model, load_model
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.widening import widen
from tests.runtime.tiny import tiny_model


def save_with_tokenizer(model, folder):
    model.save_pretrained(folder)
    vocabulary = {f"t{index}": index for index in range(97)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="t0"))).save_pretrained(folder)
    return str(folder)


def test_a_folder_loads_and_agrees_with_hugging_face(tmp_path):
    path = save_with_tokenizer(tiny_model("qwen3"), tmp_path)
    loaded = load_model(path, dtype="float32")
    tokens = list(range(20))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([tokens])).logits[0]
    runtime = loaded.runtime
    logits = runtime.forward(runtime.target, runtime.new_cache(), Rows.chain(tokens, 0))
    assert (logits - expected).abs().max() < 1e-4
    assert load_hf_model(loaded).config.num_hidden_layers == 3
    assert loaded.fingerprint == load_model(path).fingerprint


def test_a_float16_checkpoint_is_read_in_16_bits_by_a_cpu_and_computed_in_32(tmp_path):
    path, tokens = save_with_tokenizer(tiny_model("llama").half(), tmp_path), list(range(20))
    runtime = load_model(path, backend="native").runtime
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert (runtime.dtype, runtime.full_bytes) == (torch.float32, 2)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
        model.lm_head.weight[3, 5] += 2.0**-20
    logits = runtime.forward(runtime.target, runtime.new_cache(), Rows.chain(tokens, 0))
    assert (logits - expected).abs().max() < 1e-4
    wide = build_runtime(model, backend="native")
    assert wide.full_bytes == 4 and wide.target.weight_bytes == 2 * runtime.target.weight_bytes


def test_the_fingerprint_follows_the_weights(tmp_path):
    first = load_model(save_with_tokenizer(tiny_model("llama", seed=0), tmp_path / "a")).fingerprint
    second = load_model(save_with_tokenizer(tiny_model("llama", seed=1), tmp_path / "b")).fingerprint
    assert first["config"] == second["config"] and first["weights"] != second["weights"]


@pytest.mark.parametrize(
    "family",
    [
        *("llama", "llama-bias", "qwen3", "phi3-longrope", "phi4-mini", "granite", "nemotron", "starcoder2", "opt"),
        *("hunyuan", "hyperclovax", "gpt2"),
        *("glm4", "exaone4", "olmo3", "jais2"),
    ],
)
def test_widening_keeps_the_function(family):
    model = tiny_model(family)
    tokens = list(range(30))
    narrow, wide = (build_runtime(each) for each in (model, widen(model, 3)))
    assert wide.spec.hidden_size == 3 * narrow.spec.hidden_size and wide.spec.head_dim == narrow.spec.head_dim
    logits = [runtime.forward(runtime.target, runtime.new_cache(), Rows.chain(tokens, 0)) for runtime in (narrow, wide)]
    assert (logits[0] - logits[1]).abs().max() < 2e-5 * logits[0].abs().max()


def test_unsupported_checkpoints_are_named():
    config = transformers.BloomConfig(n_layer=1, hidden_size=32, n_head=2, vocab_size=97)
    with pytest.raises(UnsupportedModelError, match="'bloom' is not supported; supported: llama"):
        build_runtime(transformers.BloomForCausalLM(config))
    for setting in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        with pytest.raises(UnsupportedModelError, match="GPT-2 w"):
            build_runtime(tiny_model("gpt2", **{setting: True}))
    with pytest.raises(UnsupportedModelError, match="opt-350m"):
        build_runtime(tiny_model("opt", do_layer_norm_before=False))
    for setting in ("use_parallel_residual", "qk_layernorm"):
        with pytest.raises(UnsupportedModelError, match="StableLM with parallel sub-layers"):
            build_runtime(tiny_model("stablelm", **{setting: True}))
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UnsupportedModelError, match="'dynamic' is not supported; supported: default"):
        ModelSpec.from_config(transformers.LlamaConfig(rope_parameters=scaled))  # from the configuration alone


@pytest.mark.parametrize("family", ["mistral", "ministral", "phi3", "gemma3"])
def test_a_window_that_a_draft_tree_may_be_deeper_than_is_refused(family):
    assert build_runtime(tiny_model(family, sliding_window=128)).max_length == 512
    with pytest.raises(UnsupportedModelError, match="window of 127 tokens is not supported; the least is 128"):
        build_runtime(tiny_model(family, sliding_window=127))


@pytest.mark.parametrize("family", ["gemma3", "ministral3"])
def test_of_a_model_that_takes_images_the_part_for_text_is_loaded(family, tmp_path):
    text = tiny_model(family)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    if family == "gemma3":
        kind, others = transformers.Gemma3Config, {"mm_tokens_per_image": 4}
    else:
        vision |= {"model_type": "pixtral", "head_dim": 8}
        kind, others = transformers.Mistral3Config, {"tie_word_embeddings": False}
    config = kind(text_config=text.config.to_dict(), vision_config=vision, image_token_index=96, **others)
    mixed = transformers.AutoModelForImageTextToText.from_config(config).eval()
    mixed.model.language_model.load_state_dict(text.model.state_dict())
    mixed.lm_head.load_state_dict(text.lm_head.state_dict())
    loaded = load_model(save_with_tokenizer(mixed, tmp_path), dtype="float32")
    tokens = torch.randint(0, 90, (1, 140), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = text(tokens).logits[0]
        assert torch.equal(load_hf_model(loaded)(tokens).logits[0], expected)
    found = loaded.runtime.forward(loaded.runtime.target, loaded.runtime.new_cache(), Rows.chain(tokens[0].tolist(), 0))
    assert (found - expected).abs().max() < 1e-4


def test_what_gemma_does_not_do_here_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="soft caps"):
        build_runtime(tiny_model("gemma3", attn_logit_softcapping=30.0))
    with pytest.raises(UnsupportedModelError, match="tokens ahead"):
        build_runtime(tiny_model("gemma3", use_bidirectional_attention=True, sliding_window=512))
    with pytest.raises(UnsupportedModelError, match="cannot widen a gemma checkpoint"):
        widen(tiny_model("gemma"), 2)


def test_olmo_with_bounds_and_widening_without_a_weight_to_take_it_back_are_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="clip_qkv"):
        build_runtime(tiny_model("olmo", clip_qkv=8.0))
    for name in ("olmo", "nanochat"):
        with pytest.raises(UnsupportedModelError, match="its last norm has no weights"):
            widen(tiny_model(name), 2)


@pytest.mark.parametrize("family", ["phi3-longrope", "ministral3"])
def test_what_rotates_otherwise_further_on_is_not_run_there(family):
    assert tiny_model(family).config.max_position_embeddings == 512
    assert build_runtime(tiny_model(family)).max_length == 256


def test_wrong_requests_are_one_clear_line(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_model(str(tmp_path))
    path = save_with_tokenizer(tiny_model("llama"), tmp_path / "m")
    for options, message in (({"dtype": "int3"}, "--dtype int3"), ({"device": "tpu9"}, "--device tpu9")):
        with pytest.raises(InputError, match=message):
            load_model(path, **options)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no usable CUDA device"):
            load_model(path, device="cuda")
