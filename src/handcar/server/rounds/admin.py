"""Rounds in the admin pages, to look at."""

from django.contrib import admin

from handcar.server.rounds.models import Audit, Participation, Update, Version


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows whose state only the services change."""

    def has_add_permission(self, request, obj=None):  # type: ignore[no-untyped-def] # noqa: D102
        return False

    def has_change_permission(self, request, obj=None):  # type: ignore[no-untyped-def] # noqa: D102
        return False

    def has_delete_permission(self, request, obj=None):  # type: ignore[no-untyped-def] # noqa: D102
        return False


@admin.register(Version)
class VersionAdmin(ReadOnly):
    """Versions."""

    list_display = ("model", "number", "updates", "loss", "accuracy", "published_at")
    list_filter = ("model",)


@admin.register(Update)
class UpdateAdmin(ReadOnly):
    """Updates."""

    list_display = ("id", "model", "volunteer", "state", "steps", "reason", "received_at")
    list_filter = ("state", "model")


@admin.register(Participation)
class ParticipationAdmin(ReadOnly):
    """Who takes part."""

    list_display = ("volunteer", "model", "activity", "version", "step", "heard_at")
    list_filter = ("model", "activity")


@admin.register(Audit)
class AuditAdmin(ReadOnly):
    """Rounds that volunteers trained again."""

    list_display = ("update", "model", "auditor", "state", "cosine", "reason", "drawn_at")
    list_filter = ("state", "model")
