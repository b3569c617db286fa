"""Data sets, models and messages."""

# What a field holds is Django's business; without its plugin mypy asks for it to be said.
# mypy: disable-error-code="var-annotated"
from __future__ import annotations

from django.db import models
from django.db.models import Q

from handcar.server.accounts.models import Owner, Volunteer

STATES = ("preparing", "pending", "paused", "finished", "failed")
LEVELS = ("info", "warning", "error")
ORDERS = ("carry on", "pause", "stop", "switch", "upgrade")


class Dataset(models.Model):
    """A data set, cut into chunks."""

    name = models.CharField(max_length=63, unique=True)
    description = models.TextField(blank=True)
    licence = models.TextField(blank=True)
    content_digest = models.CharField(max_length=71)
    """Digest over its chunks: the same name with another content is another data set."""
    owner = models.ForeignKey(Owner, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)
    chunks = models.IntegerField(default=0, db_default=0)
    """To train on, as are the next three: counted once, since chunks never change."""
    size = models.BigIntegerField(default=0, db_default=0)
    records = models.BigIntegerField(default=0, db_default=0)
    first_size = models.BigIntegerField(default=0, db_default=0)
    """Of the chunk that is cut first."""

    owner_id: int

    def __str__(self) -> str:
        return str(self.name)


class Chunk(models.Model):
    """One file of records, immutable."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE)
    index = models.IntegerField()
    split = models.CharField(max_length=10)
    digest = models.CharField(max_length=71, db_index=True)
    size = models.BigIntegerField()
    records = models.BigIntegerField()
    decoded = models.BigIntegerField(null=True, blank=True)
    """Bytes once decoded, as its owner says."""
    file_name = models.CharField(max_length=128)
    codec = models.CharField(max_length=32)
    urls = models.JSONField(default=list)
    """Where its owner stores it."""
    on_server = models.BooleanField()

    class Meta:
        ordering = ("index",)
        constraints = [
            models.UniqueConstraint(fields=("dataset", "index"), name="chunk_index"),
            models.CheckConstraint(
                condition=Q(split__in=("train", "validation")), name="chunk_split"
            ),
        ]

    def __str__(self) -> str:
        return str(self.file_name)


class TrainingModel(models.Model):
    """A network that is trained: the owner's model file, and how far it is."""

    id = models.CharField(primary_key=True, max_length=63)
    """The name in the model file."""
    description = models.TextField(blank=True)
    model_file = models.TextField()
    """In its canonical form."""
    model_file_digest = models.CharField(max_length=71, db_index=True)
    model_file_size = models.IntegerField()
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT)
    owner = models.ForeignKey(Owner, on_delete=models.PROTECT)
    state = models.CharField(max_length=10, default="preparing")
    failure = models.TextField(null=True, blank=True)
    weights = models.BigIntegerField()
    batch_size = models.IntegerField()
    round_steps = models.IntegerField()
    round_seconds = models.FloatField()
    records_wanted = models.BigIntegerField(null=True, blank=True)
    """Records that the whole training takes; null trains until its owner stops it."""
    created_at = models.DateTimeField(auto_now_add=True)
    merge_leased_until = models.DateTimeField(null=True, blank=True)
    merge_attempts = models.IntegerField(default=0)
    """Merges that failed in a row."""
    rollback_wanted = models.IntegerField(null=True, blank=True)
    """The version that its owner asked to go back to."""
    prepare_attempts = models.IntegerField(default=0)
    updates_received = models.BigIntegerField(default=0, db_default=0)
    """Counted as they come, as are the next two: pages must not count millions of rows."""
    bytes_received = models.BigIntegerField(default=0, db_default=0)
    updates_refused = models.BigIntegerField(default=0, db_default=0)

    owner_id: int
    dataset_id: int

    class Meta:
        ordering = ("created_at",)
        constraints = [
            models.CheckConstraint(condition=Q(state__in=STATES), name="model_state"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Mirror(models.Model):
    """Where else a model's owner holds its model file, or a frame of its versions."""

    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    digest = models.CharField(max_length=71, db_index=True)
    urls = models.JSONField(default=list)

    class Meta:
        constraints = [models.UniqueConstraint(fields=("model", "digest"), name="one_mirror")]

    def __str__(self) -> str:
        return str(self.digest)


class BlobUpload(models.Model):
    """Bytes that an owner has announced, until they are all here."""

    owner = models.ForeignKey(Owner, on_delete=models.CASCADE)
    digest = models.CharField(max_length=71)
    size = models.BigIntegerField()
    announced_at = models.DateTimeField(auto_now=True)

    owner_id: int

    class Meta:
        constraints = [models.UniqueConstraint(fields=("owner", "digest"), name="one_upload")]

    def __str__(self) -> str:
        return str(self.digest)


class Message(models.Model):
    """A text from the server's people to volunteers."""

    text = models.TextField()
    level = models.CharField(max_length=10, default="info")
    link = models.TextField(null=True, blank=True)
    order = models.CharField(max_length=10, default="carry on")
    model = models.ForeignKey(TrainingModel, null=True, blank=True, on_delete=models.CASCADE)
    """Only to those who train it; null means to everyone."""
    owner = models.ForeignKey(Owner, null=True, blank=True, on_delete=models.SET_NULL)
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = [
            models.CheckConstraint(condition=Q(level__in=LEVELS), name="message_level"),
            models.CheckConstraint(condition=Q(order__in=ORDERS), name="message_order"),
        ]

    def __str__(self) -> str:
        return str(self.text[:60])


class MessageReceipt(models.Model):
    """A volunteer has shown a message."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE)
    volunteer = models.ForeignKey(Volunteer, on_delete=models.CASCADE)
    seen_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=("message", "volunteer"), name="seen_once")]

    def __str__(self) -> str:
        return f"{self.volunteer} saw {self.message}"
