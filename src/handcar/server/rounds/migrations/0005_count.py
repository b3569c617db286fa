from django.db import migrations
from django.db.models import Count, Q, Sum


def count(apps, _):
    updates = apps.get_model("rounds", "Update").objects
    for model in apps.get_model("catalog", "TrainingModel").objects.all():
        found = updates.filter(model=model).aggregate(
            updates_received=Count("pk", filter=Q(received_at__isnull=False)),
            bytes_received=Sum("size", filter=Q(received_at__isnull=False)),
            updates_refused=Count("pk", filter=Q(state="refused")),
        )
        for name, value in found.items():
            setattr(model, name, value or 0)
        model.save(update_fields=list(found))
        add_up(apps.get_model("rounds", "Version").objects.filter(model=model))


def add_up(versions):
    merged, begin, deltas = {}, 0, 0
    rows = list(versions.order_by("number"))
    last = 0
    for row in rows:
        if row.rolled_back_to is None:
            last += row.updates
        else:
            last = merged.get(row.rolled_back_to, 0)
        merged[row.number] = row.updates_merged = last
        deltas += row.delta_size
        begin = row.keyframe_size if row.keyframe_size is not None else begin + row.delta_size
        row.deltas_bytes, row.begin_bytes = deltas, begin
    versions.bulk_update(rows, ["updates_merged", "begin_bytes", "deltas_bytes"], batch_size=500)


class Migration(migrations.Migration):
    dependencies = [("rounds", "0004_counters"), ("catalog", "0006_count")]
    operations = [migrations.RunPython(count, migrations.RunPython.noop)]
