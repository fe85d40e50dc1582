"""Operators of torch, which a compiler calls as they are."""

import hashlib


def own_name(name: str, module: str) -> str:
    """A name for a module's operator that the operator of no other module has.

    Remote code may be imported as several copies. An operator that replaces one of its name frees
    it, while the first copy still calls it.

    Args:
        name: what the operator does.
        module: `__name__` of the module, which may hold any sign.

    Returns:
        The name, in the namespace of this package.

    >>> own_name("draw", "a") != own_name("draw", "b")
    True
    """
    digest = hashlib.blake2b(module.encode(), digest_size=8).hexdigest()
    return f"reformer_hf::{name}_{digest}"
