"""A Trainer that translates the rows it evaluates."""

from typing import Any

from transformers import Seq2SeqTrainer

from reformer_hf.training.filled_rows import LabelledRowsTrainer
from reformer_hf.training.trainer import SealedCheckpoints


class TranslationTrainer(LabelledRowsTrainer, SealedCheckpoints, Seq2SeqTrainer):
    """transformers' `Seq2SeqTrainer`, whose results do not depend on the number of processes."""

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **generation: Any,
    ) -> tuple[Any, Any, Any]:
        """Measure the loss and, with `predict_with_generate`, translate without the targets.

        Seq2SeqTrainer's own loss there is the mean of a process, which a blank batch has not.
        """
        arguments: Any = self.args
        translates = arguments.predict_with_generate and not prediction_loss_only
        scored = super().prediction_step(
            model, inputs, translates or prediction_loss_only, ignore_keys
        )
        if not translates:
            return scored
        source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        _, found, _ = super().prediction_step(model, source, False, ignore_keys, **generation)
        return scored[0], found, self._prepare_inputs(inputs).get("labels")
