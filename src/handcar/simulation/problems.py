"""From the files that a scenario names to something to train."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from handcar.data import importers
from handcar.data.fit import Expected, check_fits
from handcar.data.reading import WINDOW, Options
from handcar.data.sources import Part, Source
from handcar.errors import BadInput
from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import infer
from handcar.simulation.learner import Problem, Records
from handcar.simulation.scenario import Scenario

MOST_BYTES = 4 << 30
"""Of records: all of them lie in memory."""
SEED = 0


def read(scenario: Scenario, path: Path) -> Problem:
    """Return the problem of a scenario that lies at `path`. Raises BadInput."""
    if scenario.model is None:
        raise BadInput(f'{path}: names no model file: say "model": "mine.json"')
    model = path.parent / scenario.model
    try:
        model_file = check(model.read_bytes())
    except OSError as error:
        raise BadInput(f"{model}: can't be read: {error.strerror}") from error
    name = scenario.data or model_file.dataset.file
    if name is None:
        raise BadInput(f'{path}: names no data: say "data": "mine.npz", as the model file does not')
    with tempfile.TemporaryDirectory() as folder:
        options = _options(model, model_file)
        with importers.read(path.parent / name, options, folder=Path(folder)) as source:
            _expect_fit(model_file, source)
            return problem_of(model_file, source)


def problem_of(model_file: ModelFile, source: Source) -> Problem:
    """Return all records of a source, those held back apart."""
    order = np.random.default_rng(SEED).permutation(source.records)
    if source.test is not None:
        return Problem(model_file, _records(source.train, order), _records(source.test))
    held = round(len(order) * (model_file.dataset.validation or 0.1))
    return Problem(
        model_file, _records(source.train, order[held:]), _records(source.train, order[:held])
    )


def _records(part: Part, chosen: np.ndarray | None = None) -> Records:
    columns = []
    numbers = np.arange(part["x"].survey.records) if chosen is None else np.sort(chosen)
    if len(numbers) * part["x"].record_bytes > MOST_BYTES:
        raise BadInput("the data is too large to simulate with: all of it has to be in memory")
    for name in ("x", "y"):
        columns.append(np.ascontiguousarray(part[name].rows(numbers)))
    return Records(*columns)


def _expect_fit(model_file: ModelFile, source: Source) -> None:
    sizes = infer(model_file)
    expected = Expected(
        input_shape=sizes.input_shape,
        output_shape=sizes.output_shape,
        loss=model_file.loss.name,
        input_dtype=model_file.network.input.dtype,
        loss_config=model_file.loss.config,
    )
    check_fits(source, expected)


def _options(model: Path, model_file: ModelFile) -> Options:
    said = model_file.dataset
    return Options(
        label=said.label,
        size=said.size if said.size is None else (said.size[0], said.size[1]),
        window=said.window or WINDOW,
        tokenizer=None if said.tokenizer is None else model.parent / said.tokenizer,
        seconds=said.seconds,
        test=None if said.test is None else model.parent / said.test,
        validation=said.validation,
    )
