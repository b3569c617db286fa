"""Trains a volunteer's last round again, from what the server has of it.

    python tests/replaying.py FOLDER

in an environment that names Keras's backend. Prints JSON: what merging's audit looks at.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from handcar.data import draws
from handcar.data.blocks import BlockStore
from handcar.modelfile import trainer
from handcar.modelfile.check import check
from handcar.modelfile.shapes import infer
from handcar.protocol.messages import Start, UpdateAnnouncement
from handcar.wire import frames


def replayed(folder: Path) -> dict[str, float]:
    """Return how like the last round, trained again here, is to what the volunteer sent.

    `exact`: its cosine with what the volunteer trained, which nobody else sees; `sent`: of what
    an honest volunteer would have sent of it with what was sent; `plain`: without coding it.
    """
    model_file = check((folder / "model.json").read_bytes())
    layout = infer(model_file).layout
    blocks = BlockStore(folder / "blocks")
    digests = {draws.short(digest): digest for digest in blocks.digests()}
    told = [
        UpdateAnnouncement.model_validate(one)
        for one in json.loads((folder / "updates.json").read_text())
    ]
    known = {one.id: one for one in told}

    def sent(id: object) -> np.ndarray:
        return frames.decode_difference((folder / "sent" / str(id)).read_bytes(), layout)[1]

    def weights(start: Start) -> np.ndarray:
        found = np.load(folder / f"version{start.base_version}.npy")
        for id in start.carried:
            found = frames.apply(sent(id), found, layout)
        return found

    def past(update: UpdateAnnouncement) -> trainer.PastRound:
        starts = [trainer.PastStart(partial(weights, its), its.steps) for its in update.starts()]
        parts = [
            (
                one.steps,
                draws.replay(one, lambda name: blocks.open(digests[name]), batch_size=batch),
            )
            for one in update.recipe.drawn
        ]
        recipe = update.recipe
        step = recipe.update_step
        return trainer.PastRound(starts, update.seed, recipe.rate, parts, sent(update.id), step)

    batch = model_file.batch_size
    last = told[-1]
    network = trainer.Network(model_file, layout, seed=0)
    rounds = [past(known[id]) for id in (*last.recipe.after, last.id)]
    found = trainer.replay(network, rounds, layout)
    trained, came = np.load(folder / "change.npy"), sent(last.id)
    return {
        "rounds": len(rounds),
        "exact": cosine(found.change, trained, layout),
        "exact_norm": norm(found.change, layout) / norm(trained, layout),
        "plain": cosine(found.change, came, layout),
        "sent": cosine(found.expected, came, layout),
        "sent_norm": norm(found.expected, layout) / norm(came, layout),
    }


def trainable(change: np.ndarray, layout) -> np.ndarray:
    kept = change.copy()
    for place in layout.statistic_slices:
        kept[place] = 0
    return kept


def norm(change: np.ndarray, layout) -> float:
    return float(np.linalg.norm(trainable(change, layout)))


def cosine(one: np.ndarray, other: np.ndarray, layout) -> float:
    dot = float(trainable(one, layout) @ trainable(other, layout))
    return dot / (norm(one, layout) * norm(other, layout))


if __name__ == "__main__":
    print(json.dumps(replayed(Path(sys.argv[1]))))
