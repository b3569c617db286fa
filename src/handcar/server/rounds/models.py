"""Versions, the updates that make them, and who takes part."""

# What a field holds is Django's business; without its plugin mypy asks for it to be said.
# mypy: disable-error-code="var-annotated"
from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from handcar.merging.trust import Standing
from handcar.protocol.messages import UpdateAnnouncement
from handcar.server.accounts.models import Volunteer
from handcar.server.catalog.models import TrainingModel

ANNOUNCED, RECEIVED, CHECKED = "announced", "received", "checked"
MERGED, REFUSED, EXPIRED = "merged", "refused", "expired"
UNFINISHED = (ANNOUNCED, RECEIVED, CHECKED)
ACCEPTED = (CHECKED, MERGED)
STATES = (*UNFINISHED, MERGED, REFUSED, EXPIRED)
WANTED, PASSED, FAILED, SKIPPED = "wanted", "passed", "failed", "skipped"
"""What became of an audit; empty: none was wanted."""
DRAWN, ANSWERED, AGAIN = "drawn", "answered", "again"
WRONG, UNSETTLED, UNABLE = "wrong", "unsettled", "unable"
OPEN_AUDIT = (DRAWN, ANSWERED, AGAIN)
DONE_AUDIT = (AGAIN, PASSED, FAILED, UNSETTLED)
"""Audits that a volunteer has made, right as far as is known."""
AUDITS = (*OPEN_AUDIT, PASSED, FAILED, WRONG, UNSETTLED, UNABLE, EXPIRED)
"""States of an audit by a volunteer; `auditors` says how they follow each other."""


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
    reference_digest = models.CharField(max_length=71, null=True, blank=True)
    """What merging remembers, raw float32: the slow mean of the changes ..."""
    momentum_digest = models.CharField(max_length=71, null=True, blank=True)
    """... and, for rules with one, the momentum."""
    rolled_back_to = models.IntegerField(null=True, blank=True)
    """The earlier version whose weights this one has again; null for one that was merged."""
    undone = models.BooleanField(default=False)
    """Whether a later version went back to before this one."""
    updates = models.IntegerField(default=0)
    counted_steps = models.FloatField(default=0.0)
    gain = models.FloatField(default=1.0)
    records_merged = models.BigIntegerField(default=0)
    """By all versions up to this one that count, as are the updates."""
    updates_merged = models.BigIntegerField(default=0, db_default=0)
    begin_bytes = models.BigIntegerField(default=0, db_default=0)
    """What a newcomer downloads to have this version: a keyframe and the deltas after it."""
    deltas_bytes = models.BigIntegerField(default=0, db_default=0)
    """Of all deltas up to this one."""
    loss = models.FloatField(null=True, blank=True)
    accuracy = models.FloatField(null=True, blank=True)
    evaluated_at = models.DateTimeField(null=True, blank=True)
    evaluation_attempts = models.IntegerField(default=0)
    leased_until = models.DateTimeField(null=True, blank=True)
    """By the process that measures it."""
    published_at = models.DateTimeField()

    model_id: str

    class Meta:
        ordering = ("model", "number")
        constraints = [models.UniqueConstraint(fields=("model", "number"), name="one_version")]
        indexes = [
            models.Index(
                fields=("model", "number"),
                condition=Q(loss__isnull=False, undone=False),
                name="version_measured",
            ),
        ]

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
    trust = models.FloatField(default=1.0)
    """What its volunteer's standing leaves of its steps."""
    recipe = models.JSONField(null=True, blank=True)
    """How its round can be computed again."""
    examined_at = models.DateTimeField(null=True, blank=True)
    """When its numbers were looked at; while it is received, it waits for the evaluator then."""
    cosine = models.FloatField(null=True, blank=True)
    """With what was merged lately."""
    sketch = models.BinaryField(null=True, blank=True)
    """Its image, float32, which others are compared with."""
    part = models.FloatField(null=True, blank=True)
    """How much of its image is in that of what merging remembered of its version."""
    gate_wanted = models.BooleanField(default=False)
    rise = models.FloatField(null=True, blank=True)
    """By which share the held-out loss rises with a part of it."""
    audit = models.CharField(max_length=10, default="", blank=True)
    objection = models.CharField(max_length=10, default="", blank=True)
    """The filter that would refuse it, also where that is suspended."""
    undone = models.IntegerField(default=0)
    """How many versions with it were taken back."""
    leased_until = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0)
    request_id = models.CharField(max_length=64, default="", db_default="", blank=True)
    """Of the request that announced it: logs of all processes name it beside what they say."""

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
            models.Index(fields=("model", "examined_at"), name="update_examined"),
            models.Index(fields=("model", "checked_at"), name="update_checked"),
            models.Index(
                fields=("model", "checked_at"),
                condition=Q(state=REFUSED),
                name="update_refused",
            ),
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
    direction = models.FloatField(null=True, blank=True)
    """Running mean of its updates' cosines with what was merged lately."""
    directions = models.IntegerField(default=0)
    """How many cosines are in it."""
    accepted = models.IntegerField(default=0)
    """Updates, since the last that failed an audit."""
    audited = models.IntegerField(default=0)
    """Audits passed, since the last that failed."""
    failed = models.IntegerField(default=0)
    """Audits failed, ever."""
    refused = models.IntegerField(default=0)
    audits_on = models.CharField(max_length=16, null=True, blank=True)  # noqa: DJ001 - added later
    """Keras's backend, while it trains rounds of others again when it is asked to."""
    audits_after = models.DateTimeField(null=True, blank=True)
    """It is not asked before: an audit takes a small share of its time."""

    model_id: str
    volunteer_id: uuid.UUID

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=("volunteer", "model"), name="one_participation"),
            models.UniqueConstraint(fields=("model", "number"), name="one_number"),
        ]
        indexes = [
            models.Index(fields=("model", "heard_at"), name="participation_heard"),
            models.Index(fields=("model", "-updates_merged", "number"), name="participation_helps"),
        ]

    def __str__(self) -> str:
        return f"{self.volunteer_id} in {self.model_id}"

    def standing(self) -> Standing:
        """Return what is known of this volunteer here."""
        return Standing(self.accepted, self.audited, self.failed)


class Audit(models.Model):
    """A round that a trusted volunteer trains again, drawn by lot; no update waits for it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    update = models.ForeignKey(Update, on_delete=models.CASCADE, related_name="audits")
    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    auditor = models.ForeignKey(Volunteer, on_delete=models.CASCADE, related_name="audits")
    state = models.CharField(max_length=10, default=DRAWN)
    key = models.CharField(max_length=32)
    """Of the image to answer with: known to nobody when the update was made."""
    needs = models.JSONField(default=list)
    """Ids of the updates whose bytes are kept until it is over."""
    drawn_at = models.DateTimeField()
    until = models.DateTimeField()
    """When nobody waits for its volunteer any more."""
    image = models.BinaryField(null=True, blank=True)
    """What the volunteer's round came to, until it is looked at."""
    cosine = models.FloatField(null=True, blank=True)
    norm_ratio = models.FloatField(null=True, blank=True)
    """How like the volunteer's round what was sent is."""
    reason = models.TextField(default="", blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0)

    model_id: str
    update_id: uuid.UUID
    auditor_id: uuid.UUID

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=AUDITS), name="audit_state"),
            models.UniqueConstraint(
                fields=("update",), condition=Q(state__in=OPEN_AUDIT), name="one_open_audit"
            ),
        ]
        indexes = [
            models.Index(
                fields=("auditor", "model"), condition=Q(state__in=OPEN_AUDIT), name="audit_open"
            ),
            models.Index(fields=("model", "state"), name="audit_of_model"),
        ]

    def __str__(self) -> str:
        return f"audit {self.id} of update {self.update_id}"


class Alert(models.Model):
    """Something that a model's owner should look at, until it is over."""

    model = models.ForeignKey(TrainingModel, on_delete=models.CASCADE)
    kind = models.CharField(max_length=20)
    text = models.TextField()
    raised_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    model_id: str

    class Meta:
        ordering = ("-raised_at",)
        indexes = [models.Index(fields=("model", "kind", "ended_at"), name="alert_open")]

    def __str__(self) -> str:
        return f"{self.model_id}: {self.text}"
