"""From files of dialogues to packed batches: dialogues -> sequences -> tokens -> batches, in a fixed order."""
