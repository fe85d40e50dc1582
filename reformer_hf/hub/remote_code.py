"""The code that a repository carries, so that it loads without this package.

`trust_remote_code=True` makes transformers fetch flat files that import each other with a single
dot. Each is a module of this package under another name: `reformer_hf.ops.hashing` becomes
`ops_hashing.py`. Only import lines differ, and shape annotations need no jaxtyping there.
"""

import ast
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.registration import ENCODER_DECODER_MODELS, MODELS

PACKAGE = "reformer_hf"
JAXTYPING = "jaxtyping"
ANNOTATIONS = "shape_annotations"
"""Name of the file that stands in for jaxtyping."""

HEADER = "# From reformer_hf {version}, {path}.py. Licence: Apache-2.0.\n"

STAND_IN = '''"""Shapes in signatures: `Float[Tensor, "batch seq"]` is a tensor with these axes."""


class _Shape:
    """Gives the bare tensor: nothing here checks shapes."""

    def __class_getitem__(cls, item):
        return item[0]


{names} = _Shape
'''

ALL_FILES = """
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # never true: transformers copies a file together with those that it names
{lines}
"""


def add_remote_code(folder: Path) -> list[Path]:
    """Make a saved model's folder one that loads without this package.

    With this package imported its own classes are still the ones that load.

    Args:
        folder: what `save_pretrained` of a model wrote, and of its tokenizer if there is one.

    Returns:
        The files of code. `config.json` has changed too: it names the classes in `auto_map`.

    Raises:
        ValueError: if the folder holds no model of this package, or a tokenizer that needs it.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config.get("model_type") != ReformerHFConfig.model_type:
        raise ValueError(
            f"{config_file} has model_type={config.get('model_type')!r}: only models of type "
            f"{ReformerHFConfig.model_type!r} carry this code. Load the checkpoint with this "
            "package and save it, or convert it with scripts/convert_checkpoint.py"
        )
    _check_tokenizer(folder)
    files = remote_code_files()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    # The map last: it must not name files that are not there.
    config["auto_map"] = {
        name: f"{flat_name(cls.__module__)}.{cls.__name__}"
        for name, cls in auto_classes(bool(config.get("is_encoder_decoder"))).items()
    }
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [folder / name for name in files]


def auto_classes(is_encoder_decoder: bool) -> dict[str, type]:
    """Name of each Auto class that loads such a model, to the class that it loads."""
    models = ENCODER_DECODER_MODELS
    if not is_encoder_decoder:
        models = {key: cls for key, cls in MODELS.items() if cls not in models.values()}
    named = {auto_class.__name__: cls for auto_class, cls in models.items()}
    return {"AutoConfig": ReformerHFConfig, **named}


def remote_code_files() -> dict[str, str]:
    """File name to text, for the classes of :func:`auto_classes` and all that they import.

    Raises:
        ValueError: as :func:`flat_files`.
    """
    classes = [cls for kind in (False, True) for cls in auto_classes(kind).values()]
    files = flat_files({cls.__module__ for cls in classes})
    # Saving a model copies its configuration's file and all that this one names.
    files[f"{flat_name(ReformerHFConfig.__module__)}.py"] += ALL_FILES.format(
        lines="\n".join(
            f"    from .{flat_name(cls.__module__)} import {cls.__name__}"
            for cls in classes
            if cls is not ReformerHFConfig
        )
    )
    return files


def flat_files(entries: set[str]) -> dict[str, str]:
    """File name to text, for some modules and those of this package that they import.

    Raises:
        ValueError: if a module imports another in a way that flat files cannot, or two modules
            would become the same file.
    """
    files: dict[str, str] = {}
    shapes: set[str] = set()
    taken = {f"{ANNOTATIONS}.py": JAXTYPING}
    modules = sorted(entries)
    for module in modules:  # which grows on the way
        source, name = read_source(module), f"{flat_name(module)}.py"
        if name in taken:
            raise ValueError(
                f"{module} and {taken[name]} would both become {name} in flat files: rename one"
            )
        taken[name] = module
        files[name] = flatten(source, module)
        for node in rewritten_imports(source, module):
            if node.module == JAXTYPING:
                shapes |= {alias.name for alias in node.names}
            elif node.module not in modules:
                modules.append(str(node.module))
    if shapes:
        files[f"{ANNOTATIONS}.py"] = STAND_IN.format(names=" = ".join(sorted(shapes)))
    return files


def flat_name(module: str) -> str:
    """Name of a module's file: its layer and path, or its stem where transformers expects that."""
    if module == JAXTYPING:
        return ANNOTATIONS
    stem = module.rpartition(".")[2]
    is_unique = stem.endswith(f"_{PACKAGE}")  # such as `modeling_reformer_hf`
    return stem if is_unique else module.removeprefix(f"{PACKAGE}.").replace(".", "_")


def flatten(source: str, module: str) -> str:
    """The text of a module's flat file: its own, but for the names in its imports."""
    lines = source.splitlines(keepends=True)
    for node in rewritten_imports(source, module):
        new = f"from .{flat_name(str(node.module))} import"
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"from {node.module} import", new)
    header = HEADER.format(version=version(PACKAGE), path=module.replace(".", "/"))
    return header + "".join(lines)


def rewritten_imports(source: str, module: str) -> list[ast.ImportFrom]:
    """The imports, at whatever depth of the code, that name other files in flat code.

    Raises:
        ValueError: if there is one in a form that transformers does not follow there.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        if not {PACKAGE, JAXTYPING, ""} & {name.partition(".")[0] for name in names}:
            continue
        if isinstance(node, ast.Import) or names[0].startswith(".") or names[0] == PACKAGE:
            raise ValueError(
                f"{module}, line {node.lineno}: {ast.unparse(node)!r} does not work in flat files; "
                f"write `from {PACKAGE}.module import name`"
            )
        found.append(node)
    return found


def read_source(module: str) -> str:
    """The text of a module.

    Raises:
        ValueError: if it is a package: what is imported from one would be a module.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or spec.submodule_search_locations is not None:
        raise ValueError(f"{module} is not a module with a source file: import from modules only")
    return Path(spec.origin).read_text(encoding="utf-8")


def _check_tokenizer(folder: Path) -> None:
    """Check that the folder's tokenizer loads without this package.

    Raises:
        ValueError: if it does not.
    """
    if (folder / "tokenizer.json").is_file():
        return
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    tokenizer_class = settings.get("tokenizer_class")
    if str(tokenizer_class).startswith("ReformerHF"):
        problem = f"{file} has tokenizer_class={tokenizer_class!r} and there is no tokenizer.json"
    elif (folder / "spiece.model").is_file():
        problem = f"{folder} has spiece.model but no tokenizer.json"
    else:
        return
    raise ValueError(
        f"{problem}, which only loads with this package: load the tokenizer with AutoTokenizer and "
        "save it there with save_pretrained, which writes a plain tokenizer.json"
    )
