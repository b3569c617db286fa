"""Who asks: a volunteer or an owner, by the bearer token of the request."""

from __future__ import annotations

from typing import Any

from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from handcar.server import limiting
from handcar.server.accounts import services
from handcar.server.accounts.models import Owner, Volunteer


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer TOKEN`; never in the address, where logs would keep it."""

    def authenticate(self, request: Request) -> tuple[Any, str] | None:
        """Return who asks; none when no token was sent."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer" or not token:
            raise exceptions.AuthenticationFailed("expected `Authorization: Bearer TOKEN`")
        who = services.find(token.strip())
        if who is None and (wait := limiting.wait_s(request, "strangers")):
            raise exceptions.Throttled(wait, "too many tokens from here are not known")
        if who is None:
            raise exceptions.AuthenticationFailed(
                "this token is not known here: join again, or give the owner's token of this server"
            )
        return who, token

    def authenticate_header(self, request: Request) -> str:
        """Return what a client without a token is told to send."""
        return "Bearer"


class IsVolunteer(BasePermission):
    """Only volunteers."""

    message = "this is for volunteers; an owner's token does not do"

    def has_permission(self, request: Request, view: Any) -> bool:
        """Say whether a volunteer asks."""
        return isinstance(request.user, Volunteer) or _no_one(request)


class IsOwner(BasePermission):
    """Only owners."""

    message = "this is for owners; a volunteer's token does not do"

    def has_permission(self, request: Request, view: Any) -> bool:
        """Say whether an owner asks."""
        return isinstance(request.user, Owner) or _no_one(request)


def volunteer(request: Request) -> Volunteer:
    """Return the volunteer who asks; for views that ask for one."""
    who: object = request.user
    if not isinstance(who, Volunteer):
        raise exceptions.NotAuthenticated(IsVolunteer.message)
    return who


def owner(request: Request) -> Owner:
    """Return the owner who asks; for views that ask for one."""
    who: object = request.user
    if not isinstance(who, Owner):
        raise exceptions.NotAuthenticated(IsOwner.message)
    return who


def _no_one(request: Request) -> bool:
    if request.user is None:
        raise exceptions.NotAuthenticated("send `Authorization: Bearer TOKEN`")
    return False
