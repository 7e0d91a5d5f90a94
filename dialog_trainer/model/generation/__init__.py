"""Text generation: sampling, KV cache, batched and streamed replies, the history of a conversation."""
