"""Random models whose replies differ with their contexts and end at various lengths; contexts for them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.model.packed_forward import use_packed_attention

SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip


def wide_gpt2(tokenizer):
    """Weights so wide that replies differ with their contexts and end at various lengths; dropout that must not count."""
    model = build_from_scratch(tokenizer, layers=2, heads=2, width=16, positions=64, dropout=0.3, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        wte = model.get_input_embeddings().weight
        wte[
            [tokenizer.special_tokens.separator, tokenizer.end_id, tokenizer.special_tokens.start, tokenizer.pad_id]
        ] *= 10
    assert use_packed_attention(model)
    return model


def build(kind: str, **sizes):
    """A small random model of transformers' `kind`, in evaluation mode."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | sizes))).eval()


def always_say(model, token: int) -> None:
    """Makes `token` the most probable everywhere: its row points along the last layer's constant output."""
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(0.01)
        model.transformer.ln_f.bias.fill_(1.0)
        model.get_input_embeddings().weight[token] = 5.0


def random_contexts(lengths: list[int], first: int, size: int, seed: int = 0) -> list[list[int]]:
    """Random ids below `size` after a `first` one."""
    generator = torch.Generator().manual_seed(seed)
    return [[first, *torch.randint(7, size, (n - 1,), generator=generator).tolist()] for n in lengths]
