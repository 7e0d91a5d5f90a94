"""What a model does on held-out dialogues: loss, replies, scores."""
