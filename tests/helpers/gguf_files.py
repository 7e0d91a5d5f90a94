"""A small GGUF file of a Llama with random weights, as llama.cpp writes it."""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

from dialog_trainer.data.tokenizer import DialogueTokenizer

WIDTH, HEADS, LAYERS, INNER, POSITIONS = 64, 2, 1, 96, 64


def write_gguf(path: Path, tokenizer: DialogueTokenizer, quantized: bool = False) -> dict[str, np.ndarray]:
    """Writes the file, with the tokens of `tokenizer` but those of dialogues; returns the weights as they were."""
    tokens = sorted(tokenizer.hf_tokenizer.get_vocab().items(), key=lambda item: item[1])[: len(tokenizer) - 3]
    model = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())["model"]
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([TokenType.CONTROL if token.startswith("<|") else TokenType.NORMAL for token, _ in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.end_id)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH // HEADS, WIDTH), "blk.0.attn_v": (WIDTH // HEADS, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    weights = {name: draw.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    kind = GGMLQuantizationType.Q8_0
    for name, value in weights.items():
        if quantized and value.ndim == 2:
            writer.add_tensor(f"{name}.weight", quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
