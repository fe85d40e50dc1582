import pytest

from reformer_hf.training.loop_arguments import LoopArguments


@pytest.mark.parametrize(
    "name, value",
    [
        ("checkpointing_steps", "often"),
        ("checkpointing_steps", "0"),
        ("max_train_steps", 0),
        ("learning_rate", -1.0),
        ("save_total_limit", 0),
    ],
)
def test_what_does_not_fit_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        LoopArguments(**{name: value})


@pytest.mark.parametrize("given, steps", [(None, None), ("epoch", None), ("5", 5)])
def test_checkpoints_come_by_steps_or_by_epochs(given, steps):
    assert LoopArguments(checkpointing_steps=given).steps_between_checkpoints == steps


def test_a_file_cannot_choose_what_is_not_there():
    with pytest.raises(ValueError, match="optim='adamww': choose from adamw, adafactor"):
        LoopArguments(optim="adamww")
    with pytest.raises(ValueError, match="max_grad_norm=-1.0: must be above 0, or 0 for none"):
        LoopArguments(max_grad_norm=-1.0)
