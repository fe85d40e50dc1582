"""Training: what transformers' reversible layers get wrong, and these do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.parity.defect_models import (
    DROPOUT,
    FIELDS,
    LENGTH,
    LOCAL_ONLY,
    build_ours,
    build_stock,
    gradients,
    largest,
    random_ids,
)


def record_attention(model: nn.Module) -> list[list[Tensor]]:
    """Per layer, what its attention sub-layer returns from now on: in forward, then in replay."""
    outputs: list[list[Tensor]] = []
    for layer in model.reformer.encoder.layers:
        calls: list[Tensor] = []
        layer.attention.register_forward_hook(
            lambda module, inputs, output, calls=calls: calls.append(output[0].detach())
        )
        outputs.append(calls)
    return outputs


def replay_errors(model: nn.Module) -> list[float]:
    """Per layer, how far the replayed attention is from the forward one, relative to its scale."""
    calls = record_attention(model.train())
    ids = random_ids(2, LENGTH)
    model(ids, labels=ids).loss.backward()
    return [largest(replay - forward) / largest(forward) for forward, replay in calls]


def backward(model: nn.Module, ids: Tensor, **inputs: Any) -> dict[str, Tensor]:
    """Gradients of the loss, with the same random numbers at every call."""
    torch.manual_seed(1)
    model.zero_grad()
    model(ids, labels=ids, **inputs).loss.backward()
    return gradients(model)


class TestDropout:
    """The dropout masks of the forward pass must come back in the replay."""

    def test_replay_repeats_dropout(self):
        assert max(replay_errors(build_ours(**DROPOUT))) < 1e-9

    def test_gradients_equal_plain_autograd(self):
        ids = random_ids(2, LENGTH)
        plain = backward(build_ours(reversible=False, **DROPOUT).train(), ids)
        assert_close(backward(build_ours(**DROPOUT).train(), ids), plain, rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("hash_seed", [None, 0])
    def test_stock_replays_other_dropout_after_hashing(self, hash_seed):
        # Nothing happened before the last layer's replay, so this error is all its own.
        *_, error = replay_errors(build_stock(hash_seed=hash_seed, **DROPOUT))
        print(error)
        assert error > 0.1
        assert max(replay_errors(build_stock(**LOCAL_ONLY, **DROPOUT))) < 1e-4


class TestTwoForwards:
    """Gradient accumulation over several losses: each backward replays its own forward."""

    def replay_error_of_first(self, model: nn.Module) -> float:
        calls = record_attention(model.train())
        ids = random_ids(2, LENGTH)
        first = model(ids, labels=ids).loss
        model(ids, labels=ids)
        first.backward()
        forward, _, replay = calls[-1]
        return largest(replay - forward) / largest(forward)

    def test_first_of_two_forwards_is_replayed(self):
        assert self.replay_error_of_first(build_ours(**DROPOUT)) < 1e-9

    def test_stock_replays_the_second_forward(self):
        error = self.replay_error_of_first(build_stock(**LOCAL_ONLY, **DROPOUT))
        print(error)
        assert error > 0.1


class TestLength:
    """Any training length up to the number of positions."""

    @pytest.mark.parametrize("seq", [1, 7, 8, 37, 56])
    def test_any_length_trains(self, seq):
        model = build_ours(redraw_rotations=False).train()
        ids = random_ids(2, LENGTH)
        short, whole = model(ids[:, :seq]).logits, model(ids).logits
        assert_close(short, whole[:, :seq])
        short.sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    @pytest.mark.parametrize("seq", [60, 56])
    def test_stock_trains_at_one_length_only(self, seq):
        # 60 is no multiple of the chunk length, 56 is not the product of the axes.
        ids = random_ids(2, seq)
        with pytest.raises(ValueError, match="If training"):
            build_stock().train()(ids, labels=ids)

    def test_position_ids_count_in_training(self):
        model = build_ours(redraw_rotations=False)
        inputs = {"input_ids": random_ids(2, LENGTH), "attention_mask": torch.ones(2, LENGTH)}
        reverse = torch.arange(LENGTH).flip(0).expand(2, -1)
        trained = model.train()(position_ids=reverse, **inputs).logits
        assert_close(trained, model.eval()(position_ids=reverse, **inputs).logits)
        assert largest(trained - model(**inputs).logits) > 0.1

    def test_stock_ignores_position_ids_in_training(self):
        model = build_stock().train()
        ids = random_ids(2, LENGTH)
        reverse = torch.arange(LENGTH).flip(0).expand(2, -1)
        moved = largest(model(ids, position_ids=reverse).logits - model(ids).logits)
        print(moved)
        assert moved == 0.0


class TestAutocast:
    """The replay runs under the autocast state of the forward pass."""

    def replay_dtypes(self, model: nn.Module) -> list[tuple[torch.dtype, torch.dtype]]:
        calls = record_attention(model.train())
        ids = random_ids(2, LENGTH)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        return [(forward.dtype, replay.dtype) for forward, replay in calls]

    def test_replay_is_autocast(self):
        model = build_ours().float()
        assert self.replay_dtypes(model) == [(torch.bfloat16, torch.bfloat16)] * 4

    def test_autocast_gradients_equal_plain_autograd(self):
        ids = random_ids(2, LENGTH)
        grads = []
        for reversible in (True, False):
            model = build_ours(reversible=reversible).float().train()
            with torch.autocast("cpu", torch.bfloat16):
                torch.manual_seed(1)
                loss = model(ids, labels=ids).loss
            loss.backward()
            grads.append(gradients(model))
        # Streams are float32, so a replay sees its input to 1e-6 and seldom rounds otherwise.
        for name, grad in grads[0].items():
            assert (grad - grads[1][name]).norm() <= 0.02 * grads[1][name].norm(), name

    def test_stock_replays_in_float32(self):
        dtypes = self.replay_dtypes(build_stock())
        print(str(dtypes[0]))
        assert dtypes == [(torch.bfloat16, torch.float32)] * 4


class TestEvalMode:
    """Gradients without dropout, for saliency maps."""

    def test_eval_mode_has_gradients(self):
        ids = random_ids(2, LENGTH)
        plain = backward(build_ours(reversible=False), ids)
        assert_close(backward(build_ours(), ids), plain, rtol=1e-7, atol=1e-9)

    def test_stock_asserts_training_mode(self):
        ids = random_ids(2, LENGTH)
        with pytest.raises(AssertionError, match="training mode"):
            build_stock()(ids, labels=ids).loss.backward()


class TestNumHashes:
    """Another number of rounds than the configuration's, in training."""

    def test_num_hashes_in_training(self):
        ids = random_ids(2, LENGTH)
        configured = backward(build_ours(num_hashes=3).train(), ids)
        assert_close(backward(build_ours().train(), ids, num_hashes=3), configured)

    def test_stock_forgets_num_hashes_in_backward(self):
        ids = random_ids(2, LENGTH)
        assert FIELDS["num_hashes"] != 3
        with pytest.raises(RuntimeError, match="shape .* is invalid"):
            backward(build_stock().train(), ids, num_hashes=3)


class TestRandomState:
    """`set_seed` reproduces a training run; backward draws no random numbers."""

    def losses(self, model: nn.Module) -> list[float]:
        """The loss of the same step, taken twice from the same seed."""
        ids, losses = random_ids(2, LENGTH), []
        for _ in range(2):
            torch.manual_seed(7)
            losses.append(model(ids, labels=ids).loss.item())
        return losses

    def test_seed_reproduces_training(self):
        first, second = self.losses(build_ours(**DROPOUT).train())
        assert first == second

    def test_stock_discards_the_seed_in_training(self):
        losses = self.losses(build_stock(hash_seed=None, **DROPOUT).train())
        print(losses)
        assert losses[0] != losses[1]

    def backward_draws(self, model: nn.Module) -> bool:
        ids = random_ids(2, LENGTH)
        loss = model(ids, labels=ids).loss
        before = torch.get_rng_state()
        loss.backward()
        return not torch.equal(before, torch.get_rng_state())

    def test_backward_leaves_the_generator(self):
        assert not self.backward_draws(build_ours(**DROPOUT).train())

    def test_stock_backward_reseeds_the_generator(self):
        assert self.backward_draws(build_stock(**DROPOUT).train())
