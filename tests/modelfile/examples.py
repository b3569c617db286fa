"""Model files and Keras models that several tests read."""

import json

DIGITS = {
    "name": "digits",
    "description": "Handwritten digits, a small network",
    "dataset": {
        "name": "optical-digits",
        "description": "8 x 8 grey pictures",
        "licence": "CC BY 4.0",
        "file": "digits.npz",
        "validation": 0.2,
    },
    "input": {"shape": [8, 8]},
    "layers": [
        {"layer": "Rescaling", "scale": 0.0625},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 64, "activation": "relu"},
        {"layer": "Dense", "units": 10, "activation": "softmax"},
    ],
    "loss": "sparse_categorical_crossentropy",
    "optimizer": {"name": "Adam", "learning_rate": 0.002},
    "metrics": ["accuracy"],
    "batch_size": 32,
    "epochs": 30,
    "round": {"max_steps": 1000, "max_seconds": 1800},
}


def encoded(document):
    return json.dumps(document).encode()


def with_keras(model):
    """A model file that holds a Keras model's own JSON."""
    given = model if isinstance(model, (dict, str)) else json.loads(model.to_json())
    return {"name": "m", "dataset": {"name": "d"}, "keras": given, "loss": "mse"}


def changed(*path, to, of=DIGITS):
    """A copy of a document with one place changed; `to` None takes the key away."""
    copy = json.loads(json.dumps(of))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return copy
