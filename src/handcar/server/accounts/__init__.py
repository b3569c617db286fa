"""Volunteers and owners: who they are, and the tokens that prove it."""
