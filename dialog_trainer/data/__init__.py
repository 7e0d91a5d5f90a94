"""From files of dialogues to packed batches: dialogues -> tokens -> sequences -> batches, in a fixed order."""
