"""Accounts in the admin pages."""

from django.contrib import admin

from handcar.server.accounts.models import Owner, Volunteer


@admin.register(Volunteer)
class VolunteerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Volunteers; the hash of a token is of no use to a person."""

    list_display = ("name", "client_version", "bytes_up", "created_at")
    search_fields = ("name",)
    readonly_fields = ("id", "created_at")
    exclude = ("token_hash",)


@admin.register(Owner)
class OwnerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Owners."""

    list_display = ("name", "user", "created_at")
    exclude = ("token_hash",)
