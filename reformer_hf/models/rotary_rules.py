"""Rotary positions in a configuration: their names, what follows from those given, and rules."""

from collections.abc import Collection, Mapping
from typing import Any

ROPE_NAMES = ("rope_theta", "rope_scaling")
"""Names that are no fields: `rope_parameters` holds what they say."""

DEFAULT_ROPE_THETA = 10_000.0
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def derive_rotary(
    config: Any, given: Mapping[str, Any], names: dict[str, Any], by_hand: Collection[str]
) -> None:
    """Set the parameters of rotary positions, also from the names that they once had.

    Args:
        config: whose `rope_parameters` is set; None without rotary positions.
        given: the fields given.
        names: keyword arguments; `rope_theta` and `rope_scaling` are taken out.
        by_hand: names of fields that do not come from a file.

    Raises:
        ValueError: if there are any without rotary positions.
    """
    theta, scaling = (names.pop(name, None) for name in ROPE_NAMES)
    known = given.get("rope_parameters") or {}
    parameters = dict(scaling or known)
    if config.position_embedding_type != "rotary":
        if "position_embedding_type" in by_hand and "rope_parameters" not in by_hand:
            parameters = scaling  # a file's are old
        if theta is not None or parameters:
            raise ValueError(
                f"rope_parameters={parameters!r}, rope_theta={theta!r} with "
                f"position_embedding_type={config.position_embedding_type!r}: leave them out, or "
                "set it to 'rotary'"
            )
        config.rope_parameters = None
        return
    old = parameters.pop("type", "default")
    parameters.setdefault("rope_type", old)
    parameters.setdefault("rope_theta", known.get("rope_theta", DEFAULT_ROPE_THETA))
    if theta is not None:
        parameters["rope_theta"] = theta
    config.rope_parameters = parameters
    original = parameters.get("original_max_position_embeddings")
    if config.max_position_embeddings is None and original:
        # Which transformers' rules for scaled angles look at. It is no limit here.
        config.max_position_embeddings = round(original * (parameters.get("factor") or 1))


def check_rotary(config: Any) -> None:
    """Check the fields of rotary positions.

    Raises:
        ValueError: naming field, value and fix.
    """
    if config.attention_head_size % 2:
        raise ValueError(
            f"attention_head_size={config.attention_head_size} with position_embedding_type="
            "'rotary', which turns pairs of numbers: make it even"
        )
    if not config.rope_parameters:
        raise ValueError(
            f"rope_parameters={config.rope_parameters!r} with position_embedding_type='rotary': "
            "set the latter when the configuration is made, which then sets the former"
        )
    kind = config.rope_parameters["rope_type"]
    if kind not in ROPE_TYPES:
        raise ValueError(
            f"rope_parameters has rope_type={kind!r}: choose one of {ROPE_TYPES}; the angles of "
            "others change with the length, so that a cached pass would differ from a whole one"
        )
    for name in ("rope_theta", "factor"):
        value = config.rope_parameters.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"rope_parameters has {name}={value!r}: give a number above 0")
    if config.rope_parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(
            f"rope_parameters={config.rope_parameters!r}: all numbers of a head are turned; leave "
            "partial_rotary_factor out"
        )
    try:
        config.validate_rope()
    except KeyError as error:
        raise ValueError(f"rope_parameters={config.rope_parameters!r}: {error.args[0]}") from error
