"""Pure functions on tensors: the algorithm, without modules, configuration or state."""
