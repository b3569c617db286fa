from django.db import migrations
from django.db.models import Count, Sum


def count(apps, _):
    chunks = apps.get_model("catalog", "Chunk").objects.filter(split="train")
    for dataset in apps.get_model("catalog", "Dataset").objects.all():
        of_it = chunks.filter(dataset=dataset)
        found = of_it.aggregate(chunks=Count("pk"), size=Sum("size"), records=Sum("records"))
        first = of_it.order_by("index").first()
        for name, value in found.items():
            setattr(dataset, name, value or 0)
        dataset.first_size = first.size if first else 0
        dataset.save()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0005_counters")]
    operations = [migrations.RunPython(count, migrations.RunPython.noop)]
