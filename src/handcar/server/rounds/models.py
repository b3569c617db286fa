"""Versions, the updates that make them, and who takes part."""

# What a field holds is Django's business; without its plugin mypy asks for it to be said.
# mypy: disable-error-code="var-annotated"
from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from handcar.protocol.messages import UpdateAnnouncement
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel

ANNOUNCED, RECEIVED, CHECKED = "announced", "received", "checked"
MERGED, REFUSED, EXPIRED = "merged", "refused", "expired"
UNFINISHED = (ANNOUNCED, RECEIVED, CHECKED)
ACCEPTED = (CHECKED, MERGED)
STATES = (*UNFINISHED, MERGED, REFUSED, EXPIRED)


class Version(models.Model):
    """One version of a model's weights; a digest is null once its bytes are let go."""

    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    number = models.IntegerField()
    weights_sha256 = models.CharField(max_length=71)
    """Of the published weights P, which every volunteer holds."""
    delta_digest = models.CharField(max_length=71, null=True, blank=True, db_index=True)
    delta_size = models.BigIntegerField(default=0)
    keyframe_digest = models.CharField(max_length=71, null=True, blank=True, db_index=True)
    keyframe_size = models.BigIntegerField(null=True, blank=True)
    export_digest = models.CharField(max_length=71, null=True, blank=True, db_index=True)
    """A keyframe made for an owner; it takes no part in the series."""
    export_size = models.BigIntegerField(null=True, blank=True)
    exported_at = models.DateTimeField(null=True, blank=True)
    master_digest = models.CharField(max_length=71, null=True, blank=True)
    """The exact weights W that the server merges into, raw float32."""
    published_digest = models.CharField(max_length=71, null=True, blank=True)
    """The published weights P, raw float32."""
    updates = models.IntegerField(default=0)
    counted_steps = models.FloatField(default=0.0)
    gain = models.FloatField(default=1.0)
    records_merged = models.BigIntegerField(default=0)
    """By all versions up to this one."""
    loss = models.FloatField(null=True, blank=True)
    accuracy = models.FloatField(null=True, blank=True)
    evaluated_at = models.DateTimeField(null=True, blank=True)
    evaluation_attempts = models.IntegerField(default=0)
    published_at = models.DateTimeField()

    model_id: str

    class Meta:
        ordering = ("model", "number")
        constraints = [models.UniqueConstraint(fields=("model", "number"), name="one_version")]

    def __str__(self) -> str:
        return f"{self.model_id} version {self.number}"


class Update(models.Model):
    """One round's result of one volunteer: what it said of it, and what became of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    volunteer = models.ForeignKey(Volunteer, on_delete=models.CASCADE)
    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    base_version = models.IntegerField()
    carried = models.JSONField(default=list)
    seed = models.BigIntegerField()
    steps = models.IntegerField()
    records = models.BigIntegerField()
    seconds = models.FloatField()
    chunks = models.BigIntegerField(default=0)
    size = models.BigIntegerField()
    sha256 = models.CharField(max_length=71, db_index=True)
    loss = models.FloatField(null=True, blank=True)

    state = models.CharField(max_length=10, default=ANNOUNCED)
    reason = models.TextField(null=True, blank=True)
    version = models.ForeignKey(Version, null=True, blank=True, on_delete=models.PROTECT)
    """That it was merged in."""
    announced_at = models.DateTimeField()
    received_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    norm = models.FloatField(null=True, blank=True)
    factor = models.FloatField(default=1.0)
    """Below 1 its difference is shortened."""
    late_weight = models.FloatField(default=1.0)
    """What staleness leaves of its steps."""
    leased_until = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0)

    volunteer_id: uuid.UUID
    model_id: str
    version_id: int | None

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=STATES), name="update_state"),
            models.CheckConstraint(
                condition=Q(state=MERGED, version__isnull=False)
                | (~Q(state=MERGED) & Q(version__isnull=True)),
                name="update_merged_in_a_version",
            ),
        ]
        indexes = [
            models.Index(fields=("model", "state", "received_at"), name="update_waiting"),
            models.Index(fields=("volunteer", "state"), name="update_of_volunteer"),
            models.Index(fields=("state", "announced_at"), name="update_expiry"),
        ]

    def __str__(self) -> str:
        return f"update {self.id} of {self.model_id}"

    def announcement(self) -> UpdateAnnouncement:
        """Return what its volunteer announced."""
        names = set(UpdateAnnouncement.model_fields) - {"carried"}
        facts = {name: getattr(self, name) for name in names}
        return UpdateAnnouncement(carried=self.carried, **facts)


class Participation(models.Model):
    """One volunteer's part in one model, as it last told."""

    volunteer = models.ForeignKey(Volunteer, on_delete=models.CASCADE)
    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    number = models.IntegerField()
    """The how-manyth volunteer of this model: spreads them over the chunks."""
    heard_at = models.DateTimeField()
    version = models.IntegerField(default=-1)
    step = models.BigIntegerField(default=0)
    records = models.BigIntegerField(default=0)
    steps_per_second = models.FloatField(default=0.0)
    loss = models.FloatField(null=True, blank=True)
    chunks = models.BigIntegerField(default=0)
    activity = models.CharField(max_length=12, default="downloading")
    last_steps = models.IntegerField(null=True, blank=True)
    """Of its last accepted update; null while it has none."""
    bytes_up = models.BigIntegerField(default=0)
    bytes_down = models.BigIntegerField(default=0)
    updates_merged = models.IntegerField(default=0)

    model_id: str
    volunteer_id: uuid.UUID

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=("volunteer", "model"), name="one_participation"),
            models.UniqueConstraint(fields=("model", "number"), name="one_number"),
        ]
        indexes = [models.Index(fields=("model", "heard_at"), name="participation_heard")]

    def __str__(self) -> str:
        return f"{self.volunteer_id} in {self.model_id}"
