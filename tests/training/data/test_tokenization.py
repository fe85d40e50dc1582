import pytest
from datasets import Dataset, IterableDataset

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.packing import tokenize_documents

TOKENIZER = ReformerHFByteTokenizer(model_max_length=4)
EOS = 1


def texts(**columns):
    return Dataset.from_dict(columns)


def encode(text):
    return ReformerHFByteTokenizer.encode_bytes(text.encode())


def test_each_document_ends_with_the_end_of_sequence_token():
    found = tokenize_documents(texts(text=["hello", "é", "", None]), TOKENIZER)
    assert list(found["input_ids"]) == [[*encode("hello"), EOS], [*encode("é"), EOS], [], []]
    assert sorted(found.column_names) == ["ends_document", "input_ids"]


def test_a_document_in_pieces_ends_once():
    pieces = texts(text=["ab", "cd", "e"], ends_document=[False, True, True])
    found = tokenize_documents(pieces, TOKENIZER)
    assert list(found["input_ids"]) == [encode("ab"), [*encode("cd"), EOS], [*encode("e"), EOS]]
    assert list(found["ends_document"]) == [False, True, True]


def test_an_end_that_the_tokenizer_adds_is_not_doubled():
    tokenizer = ReformerHFByteTokenizer(split_special_tokens=False)
    found = tokenize_documents(texts(text=["a</s>"]), tokenizer)
    assert list(found["input_ids"]) == [[*encode("a"), EOS]]


def test_the_column_is_text_or_the_first_or_the_named_one():
    both = texts(other=["a"], text=["b"])
    assert tokenize_documents(both, TOKENIZER)[0]["input_ids"][:1] == encode("b")
    assert tokenize_documents(both, TOKENIZER, "other")[0]["input_ids"][:1] == encode("a")
    assert tokenize_documents(texts(x=["c"]), TOKENIZER)[0]["input_ids"][:1] == encode("c")
    with pytest.raises(ValueError, match="text_column_name='body': the data has the columns"):
        tokenize_documents(both, TOKENIZER, "body")


def test_processes_and_streams_give_the_same_in_the_same_order():
    rows = [f"text number {index} " * (index % 7) for index in range(200)]
    alone = tokenize_documents(texts(text=rows), TOKENIZER)
    parallel = tokenize_documents(texts(text=rows), TOKENIZER, num_workers=2)
    stream = tokenize_documents(texts(text=rows).to_iterable_dataset(), TOKENIZER)
    assert isinstance(stream, IterableDataset)
    assert list(alone) == list(parallel) == list(stream)


def test_the_second_time_comes_from_the_cache(tmp_path):
    path = str(tmp_path / "data.parquet")
    texts(text=["hello"] * 3).to_parquet(path)
    data = Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    first = tokenize_documents(data, TOKENIZER)
    assert tokenize_documents(data, TOKENIZER).cache_files == first.cache_files
    stamp = (tmp_path / first.cache_files[0]["filename"]).stat().st_mtime_ns
    tokenize_documents(data, TOKENIZER)
    assert (tmp_path / first.cache_files[0]["filename"]).stat().st_mtime_ns == stamp
    tokenize_documents(data, TOKENIZER, overwrite_cache=True)
    assert (tmp_path / first.cache_files[0]["filename"]).stat().st_mtime_ns != stamp
