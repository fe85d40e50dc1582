"""Transformers' suite of tokenizers."""

import tempfile
import unittest
from pathlib import Path
from typing import Any

from tests.test_tokenization_common import TokenizerTesterMixin

from reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from tests import test_tokenization_common
from tests.models.sentencepiece_files import LICENSE, train_sentencepiece


def folder_with_sample() -> str:
    """Where a source distribution lacks the sample text: the folder of another one."""
    return SAMPLES.name


SAMPLES = tempfile.TemporaryDirectory()
(Path(SAMPLES.name) / "fixtures").mkdir()
(Path(SAMPLES.name) / "fixtures/sample_text.txt").write_bytes(LICENSE.read_bytes())
if not Path(test_tokenization_common.get_tests_dir(), "fixtures").exists():
    test_tokenization_common.get_tests_dir = folder_with_sample


class TokenizerSuite(TokenizerTesterMixin):
    """A tokenizer that is saved, and loaded again."""

    @classmethod
    def setUpClass(cls) -> None:
        """Save the tokenizer; see `unittest.TestCase`."""
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.make(Path(folder.name)).save_pretrained(folder.name)
        cls.from_pretrained_id = folder.name
        super().setUpClass()

    @staticmethod
    def make(folder: Path) -> Any:
        """The tokenizer to be tested, and a folder for its files."""
        raise NotImplementedError


class TestBytes(TokenizerSuite, unittest.TestCase):
    """Bytes, whose special tokens are text like any other."""

    tokenizer_class = ReformerHFByteTokenizer

    @staticmethod
    def make(folder: Path) -> Any:
        return ReformerHFByteTokenizer()


class TestBytesWithMask(TestBytes):
    """Bytes and a mask token, which is read as such."""

    @staticmethod
    def make(folder: Path) -> Any:
        return ReformerHFByteTokenizer(mask_token="<mask>")


class TestPieces(TokenizerSuite, unittest.TestCase):
    """Pieces of a SentencePiece model."""

    tokenizer_class = ReformerHFTokenizer

    @staticmethod
    def make(folder: Path) -> Any:
        train_sentencepiece(folder)
        return ReformerHFTokenizer(folder / "spiece.model")
