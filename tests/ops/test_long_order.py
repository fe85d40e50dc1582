"""How far queries see, by counting."""

import pytest
import torch

from reformer_hf.ops.long_order import count_visible
from reformer_hf.ops.window import Window


@pytest.mark.parametrize("scope", ["band", "chunk"])
@pytest.mark.parametrize("before, after, causal", [(1, 0, True), (2, 1, False), (0, 2, False)])
def test_counts_of_visible_places(scope, before, after, causal):
    length = 3
    segments = torch.tensor([0] * 7 + [2] + [3] * 9)
    window = Window(length, before, after, scope, causal)
    earlier, later = (count.tolist() for count in count_visible(segments, window))
    for i in range(len(segments)):
        distances = []
        for j in range(len(segments)):
            chunks = i // length - j // length
            near = -length * after <= i - j <= length * before
            if scope == "chunk":
                near = -after <= chunks <= before
            if near and segments[i] == segments[j] and not (causal and j > i):
                distances.append(i - j)
        assert (earlier[i], later[i]) == (max(distances), -min(distances))
