"""The reference page says what the check does."""

import dataclasses
import json
import re
from pathlib import Path

from handcar.modelfile import allowlist, functions
from handcar.modelfile.check import ELSEWHERE, TOP, check
from handcar.modelfile.schema import DatasetSpec, RoundSpec

PAGE = (Path(__file__).parents[2] / "docs/reference/model-file.md").read_text()


def between(start):
    return PAGE.split(f"<!-- {start} -->")[1].split("<!-- end -->")[0]


def test_every_full_example_of_the_page_passes_the_check():
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    examples = [block for block in blocks if "name" in block]
    assert len(examples) >= 2
    for example in examples:
        assert check(json.dumps(example).encode()).name == example["name"]


def test_the_page_lists_exactly_the_layers_of_the_table():
    assert between("layers").replace("\n", " ").strip() == ", ".join(sorted(allowlist.LAYERS))


def test_the_page_lists_exactly_the_functions_of_the_tables():
    tables = {
        "activations": functions.ACTIVATION.values,
        "initializers": functions.INITIALIZERS,
        "regularizers": functions.REGULARIZERS,
        "constraints": functions.CONSTRAINTS,
        "losses": functions.LOSSES,
        "metrics": functions.METRICS,
        "optimizers": functions.OPTIMIZERS,
        "schedules": functions.SCHEDULES,
    }
    lines = [f"- {what}: {', '.join(sorted(table))}" for what, table in tables.items()]
    assert " ".join(between("functions").split()) == " ".join(lines)


def test_the_page_has_a_row_for_every_field():
    fields = [*TOP, *ELSEWHERE]
    for spec in (DatasetSpec, RoundSpec):
        fields += [field.name for field in dataclasses.fields(spec)]
    for field in fields:
        assert f"| `{field}` |" in PAGE, field
