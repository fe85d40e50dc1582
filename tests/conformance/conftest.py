"""Set-up of the conformance job, which runs where transformers' tests are given."""

from pathlib import Path

import pytest
from transformers import set_seed

from tests.conformance.reasons import ReasonsPlugin, read_reasons
from tests.conformance.suite import load, suites_folder

SUITES = suites_folder()
if SUITES is None:
    collect_ignore = ["suites"]
else:
    load(SUITES)


def pytest_configure(config: pytest.Config) -> None:
    """Let the reasons decide over the run."""
    if SUITES is not None:
        option = config.option
        whole = [str(Path(arg).resolve()) for arg in config.args] == [str(Path(__file__).parent)]
        complete = whole and not (option.keyword or option.markexpr or option.collectonly)
        config.pluginmanager.register(ReasonsPlugin(read_reasons(), SUITES, complete))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state; `tests/conftest.py` is not read in this job."""
    set_seed(0)
