"""What the Hub checks in a card's metadata, as far as its documentation says."""

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results

LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "other", "unknown"}
PIPELINE_TAGS = {
    "feature-extraction",
    "fill-mask",
    "multiple-choice",
    "question-answering",
    "summarization",
    "text-classification",
    "text-generation",
    "text2text-generation",
    "token-classification",
    "translation",
    "unconditional-image-generation",
}
LISTS = ("tags", "datasets", "metrics", "base_model", "language")


def card_metadata(content: str) -> dict | None:
    """The metadata of a card; None if there is none, or it is no mapping."""
    block = REGEX_YAML_BLOCK.search(content)
    data = yaml.safe_load(block[2]) if block else None
    return data if isinstance(data, dict) else None


def metadata_errors(content: str) -> list[str]:
    """List what the Hub would refuse."""
    try:
        data = card_metadata(content)
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"]
    if data is None:
        return ["the card has no metadata"]
    errors = []
    if "license" in data and data["license"] not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    if "pipeline_tag" in data and data["pipeline_tag"] not in PIPELINE_TAGS:
        errors.append(f'"pipeline_tag" must be one of {sorted(PIPELINE_TAGS)}')
    for name in LISTS:
        values = data.get(name, [])
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            errors.append(f'"{name}" must be a list of strings')
    if "model-index" in data:
        try:
            _, results = model_index_to_eval_results(data["model-index"])
        except (KeyError, TypeError, ValueError) as error:
            errors.append(f'"model-index" is not valid: {error!r}')
        else:
            for result in results:
                if not isinstance(result.metric_value, int | float):
                    errors.append(f'"model-index": {result.metric_type} is no number')
    return errors
