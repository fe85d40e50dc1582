"""Label smoothing for causal models, with the targets of the model's own loss."""

from typing import Any

from transformers import Trainer
from transformers.trainer_pt_utils import LabelSmoother

from reformer_hf.training.evaluation import next_tokens


class NextTokenSmoother(LabelSmoother):
    """Smooths targets that are in their places already; the Trainer would shift them again."""

    def __call__(self, model_output, labels, shift_labels=False, num_items_in_batch=None):
        return super().__call__(model_output, labels, num_items_in_batch=num_items_in_batch)


class NextTokenTrainer(Trainer):
    """A `Trainer` whose label smoothing asks each place for what the model's own loss asks for.

    Trainer's own would ask the last token of a document for the first one of the next, and know
    nothing of `shift_labels`. Mix it in before another Trainer.
    """

    masked = False
    """Whether labels are those of a masked model, which nobody shifts."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.label_smoother is not None:
            self.label_smoother = NextTokenSmoother(self.args.label_smoothing_factor)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch, smoothed if that is asked for."""
        if self.label_smoother is not None and "labels" in inputs and not self.masked:
            inputs = {**inputs, "labels": next_tokens(inputs)}
            inputs.pop("shift_labels", None)
        return super().compute_loss(model, inputs, *args, **kwargs)
