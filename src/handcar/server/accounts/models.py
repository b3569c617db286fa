"""Volunteers and owners."""

# What a field holds is Django's business; without its plugin mypy asks for it to be said.
# mypy: disable-error-code="var-annotated"
from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models


class Volunteer(models.Model):
    """A machine that trains; it joined without an account."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=63)
    token_hash = models.CharField(max_length=64, unique=True)
    client_version = models.CharField(max_length=32)
    bytes_up = models.BigIntegerField(default=0)
    """Bytes of its updates that came whole, over all models."""
    address_block = models.CharField(max_length=64, default="", blank=True)
    """Which network it was last heard from, as a hash that only this server can make."""
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.name)


class Owner(models.Model):
    """Who publishes models; its user, if any, may log in to the pages."""

    name = models.CharField(max_length=63, unique=True)
    token_hash = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.name)

    @property
    def is_superuser(self) -> bool:
        """Whether it may change what others own and speak to everyone."""
        return self.user is not None and self.user.is_superuser
