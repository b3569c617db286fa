"""The small data set and model file of `handcar demo`. See README.md and LICENCE.md here."""

from pathlib import Path

DATA = Path(__file__).parent / "digits.npz"
MODEL_FILE = Path(__file__).parent / "digits.json"
