"""Handcar: train one neural network with many people's computers."""

__version__ = "0.1.0"
