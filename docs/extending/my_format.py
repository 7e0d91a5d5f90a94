"""A chat format: a chat template of one's own. The turns of a chat log, as `<|you|> Hi <|end|> <|bot|> Hello <|end|>`."""

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.template_format import TemplateFormat

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|bot|>' if message.role == 'assistant' else '<|you|>' }}{{ message.content }}{{ '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}"
)


class ChatLogFormat(TemplateFormat):
    """Its three tokens are added to the tokenizer; the model gets rows for them."""

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast):
        hf_tokenizer.add_special_tokens({"additional_special_tokens": ["<|you|>", "<|bot|>", "<|end|>"]})
        hf_tokenizer.chat_template = TEMPLATE
        super().__init__(hf_tokenizer)
