"""Files of other formats: checkpoints of transformers' Reformer, SentencePiece models."""
