"""Generation: sampling, KV cache, batched and streamed replies, conversation history."""
