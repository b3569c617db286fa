"""The catalogue in the admin pages: to look at; models change by their services only."""

from django.contrib import admin

from handcar.server.catalog.models import Chunk, Dataset, Message, TrainingModel


@admin.register(TrainingModel)
class TrainingModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Models."""

    list_display = ("id", "state", "dataset", "owner", "weights", "created_at")
    list_filter = ("state",)
    readonly_fields = tuple(
        field.name for field in TrainingModel._meta.fields if field.name != "description"
    )


@admin.register(Dataset)
class DatasetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Data sets."""

    list_display = ("name", "owner", "created_at")
    readonly_fields = ("content_digest",)


@admin.register(Chunk)
class ChunkAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Chunks."""

    list_display = ("file_name", "dataset", "split", "size", "records", "on_server")
    list_filter = ("dataset", "split")


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Messages to volunteers; made here, they go out with the next heartbeats."""

    list_display = ("text", "level", "order", "model", "sent_at")
