"""The oracle against cases worked out by hand and against the paper's multi-round equation."""

import math

import pytest
import torch

from reformer_hf.ops import reference


def table(text: str) -> list[list[int]]:
    return [[int(digit) for digit in line] for line in text.split()]


class TestHashBuckets:
    def test_largest_coordinate_or_its_opposite(self):
        vectors = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-2.0, 1.0], [1.0, -2.0]])
        identity = torch.eye(2).view(2, 1, 2)
        assert reference.hash_buckets(vectors, identity, 4) == [[0, 1, 2, 3]]

    def test_each_round_has_its_rotation(self):
        swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        assert reference.hash_buckets(torch.tensor([[3.0, 1.0]]), swap, 4) == [[0], [1]]

    def test_first_factor_is_the_least_significant_digit(self):
        # Columns: one for the factor 2, two for the factor 4.
        rotation = torch.eye(3).view(3, 1, 3)
        vectors = torch.tensor([[1.0, 0.0, 5.0], [-1.0, -4.0, 3.0]])
        # Digits (0, 1) and (1, 2): first + 2 * second.
        assert reference.hash_buckets(vectors, rotation, [2, 4]) == [[2, 5]]


class TestBandCounts:
    def test_one_bucket_is_a_sliding_window(self):
        counts = reference.band_counts([[0] * 5], [0] * 5, window_before=2, window_after=0)
        assert counts.tolist() == table("10000 11000 11100 01110 00111")

    def test_look_ahead(self):
        counts = reference.band_counts([[0] * 4], [0] * 4, window_before=1, window_after=2)
        assert counts.tolist() == table("1110 1111 0111 0011")

    def test_buckets_and_documents_separate(self):
        buckets, documents = [[0, 1, 0, 0, 1, 0]], [0, 0, 0, 1, 0, 0]
        counts = reference.band_counts(buckets, documents, window_before=1, window_after=0)
        # Bucket 0 of document 0 holds the places 0, 2 and 5.
        assert counts.tolist() == table("100000 010000 101000 000100 010010 001001")

    def test_rounds_add_up(self):
        buckets = [[0, 0, 0], [0, 1, 0]]
        counts = reference.band_counts(buckets, [0] * 3, window_before=1, window_after=0)
        assert counts.tolist() == table("200 120 112")


class TestChunkCounts:
    def test_first_chunk_wraps_to_the_last(self):
        # Sorted: 0 3 | 1 4 | 2 5.
        buckets = [[0, 1, 2, 0, 1, 2]]
        counts = reference.chunk_counts(buckets, 6, 2, 1, 0, causal=False)
        assert counts.tolist() == table("101101 110110 011011 101101 110110 011011")
        causal = reference.chunk_counts(buckets, 6, 2, 1, 0, causal=True)
        assert causal.tolist() == table("100000 110000 011000 101100 110110 011011")

    def test_rounds_look_at_the_round_before(self):
        # Chunks of one: round 0 sorts to 0 1 2, round 1 to 2 1 0. All in a ring: 0 1 2 2 1 0.
        buckets = [[0, 1, 2], [2, 1, 0]]
        counts = reference.chunk_counts(buckets, 3, 1, 1, 0, causal=False)
        # Each token meets itself twice and its predecessors: 0←0 1←0 2←1 2←2 1←2 0←1.
        assert counts.tolist() == table("310 121 013")

    def test_padding_sorts_behind_its_round_and_is_not_seen(self):
        # Layout of six: 1 | 0 2 4 | 3 and one of padding, in chunks of two: 1 0 | 2 4 | 3 -.
        counts = reference.chunk_counts([[1, 0, 1, 2, 1]], 6, 2, 1, 0, causal=False)
        assert counts.tolist() == table("11010 11010 11101 00111 11101")

    def test_a_chunk_is_in_a_window_once(self):
        # Two chunks, looking two back and one ahead: both chunks, once each.
        counts = reference.chunk_counts([[0, 0, 0, 0]], 4, 2, 2, 1, causal=False)
        assert counts.tolist() == table("1111 1111 1111 1111")

    def test_up_to_one_chunk_is_full_attention(self):
        counts = reference.chunk_counts([[0, 1, 0], [1, 0, 0]], 3, 4, 1, 0, causal=True)
        assert counts.tolist() == table("100 110 111")

    def test_local_chunks_do_not_wrap(self):
        counts = reference.local_chunk_counts(5, 2, 1, 0, causal=False)
        assert counts.tolist() == table("11000 11000 11110 11110 00111")
        ahead = reference.local_chunk_counts(5, 2, 0, 1, causal=False)
        assert ahead.tolist() == table("11110 11110 00111 00111 00001")
        causal = reference.local_chunk_counts(4, 2, 1, 0, causal=True)
        assert causal.tolist() == table("1000 1100 1110 1111")


class TestAttend:
    QUERY = torch.tensor([[1.0], [2.0], [3.0]])
    KEY = torch.tensor([[0.5], [-1.0], [2.0]])
    VALUE = torch.tensor([[10.0], [20.0], [40.0]])

    def test_softmax_of_scaled_products(self):
        query, key = torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 2), torch.eye(4)[:2]
        counts = torch.ones(2, 2, dtype=torch.int64)
        _, probabilities = reference.attend(query, key, torch.zeros(2, 1), counts, self_mask=False)
        # Scores 2 / sqrt(4) = 1 and 0.
        assert probabilities[0].tolist() == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)])

    def test_self_mask_is_a_fallback(self):
        counts = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
        output, probabilities = reference.attend(
            self.QUERY, self.KEY, self.VALUE, counts, self_mask=True
        )
        assert output[:2].flatten().tolist() == [10, 10]  # alone; then the only other key
        weights = [math.exp(1.5), math.exp(-3)]
        expected = [weight / sum(weights) for weight in weights]
        assert probabilities[2].tolist() == pytest.approx([*expected, 0])

    def test_counts_multiply_weights_unless_deduplicated(self):
        counts, zero = torch.tensor([[1, 0], [3, 1]]), torch.zeros(2, 1)
        value = torch.tensor([[4.0], [8.0]])
        output, _ = reference.attend(zero, zero, value, counts, self_mask=False)
        assert output.flatten().tolist() == [4, 5]
        output, _ = reference.attend(zero, zero, value, counts, self_mask=False, deduplicate=True)
        assert output.flatten().tolist() == [4, 6]

    def test_gradients_are_those_of_finite_differences(self):
        counts = torch.tensor([[1, 0, 0], [2, 2, 0], [1, 2, 2]])
        inputs = tuple(x.double().requires_grad_() for x in (self.QUERY, self.KEY, self.VALUE))
        assert torch.autograd.gradcheck(
            lambda *x: reference.attend(*x, counts, self_mask=True)[0], inputs
        )

    def test_keys_have_root_mean_square_one(self):
        keys = reference.normalise_keys(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        expected = [3 / math.sqrt(12.5 + 1e-6), 4 / math.sqrt(12.5 + 1e-6), 0, 0]
        assert keys.flatten().tolist() == pytest.approx(expected, abs=1e-15)


def multi_round_equation(
    query: torch.Tensor, value: torch.Tensor, seen: list[list[list[int]]], correct: bool
) -> torch.Tensor:
    """Appendix A of the paper, term by term.

    ``o_i = Σ_r exp(z(i, P_i^r) - z(i, P_i)) Σ_j exp(q_i·k_j - m_ij^r - z(i, P_i^r)) v_j`` with
    ``m_ij^r`` infinite outside of ``P_i^r``, 1e5 if ``i = j`` and else ``log N_ij``, where ``N_ij``
    counts the rounds that show the key; without the correction, ``log 1``.
    """
    query, value = query.double(), value.double()
    key = query / torch.sqrt((query**2).mean(-1, keepdim=True) + 1e-6)
    outputs = []
    for i in range(len(query)):
        rounds = []
        for shown in (row[i] for row in seen):
            exponents = []
            for j in shown:
                shows = sum(j in row[i] for row in seen) if correct else 1
                m = 1e5 if i == j else math.log(shows)
                exponents.append(query[i] @ key[j] / math.sqrt(query.shape[1]) - m)
            z = torch.logsumexp(torch.stack(exponents), 0)
            output = sum((e - z).exp() * value[j] for e, j in zip(exponents, shown, strict=True))
            rounds.append((z, output))
        z_union = torch.logsumexp(torch.stack([z for z, _ in rounds]), 0)
        outputs.append(sum((z - z_union).exp() * output for z, output in rounds))
    return torch.stack(outputs)


@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_one_softmax_over_the_union_is_the_multi_round_equation(rounds, deduplicate):
    seq, window = 12, 2
    query, value = torch.randn(seq, 4), torch.randn(seq, 3)
    buckets = torch.randint(3, (rounds, seq)).tolist()
    seen = [
        [[*[j for j in range(i) if row[j] == row[i]][-window:], i] for i in range(seq)]
        for row in buckets
    ]
    expected = multi_round_equation(query, value, seen, correct=deduplicate)
    counts = reference.band_counts(buckets, [0] * seq, window, 0)
    found, _ = reference.attend(
        query,
        reference.normalise_keys(query),
        value,
        counts,
        self_mask=True,
        deduplicate=deduplicate,
    )
    # The equation's 1e5 costs its log-sum-exps 1e5 * 2**-53 of precision.
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
