"""SentencePiece models, trained in an instant on the licence of this repository."""

import io
from pathlib import Path

import sentencepiece

LICENSE = Path(__file__).parents[2] / "LICENSE"
CORPUS = LICENSE.read_text(encoding="utf-8").splitlines(keepends=True)


def train_sentencepiece(folder: Path, **options) -> sentencepiece.SentencePieceProcessor:
    """Trains `spiece.model` in `folder`."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=buffer,
        num_threads=1,
        minloglevel=2,
        **{"model_type": "bpe", "vocab_size": 320, **options},
    )
    (folder / "spiece.model").write_bytes(buffer.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
