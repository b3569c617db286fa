from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0003_standing'),
    ]

    operations = [
        migrations.AddField(
            model_name='chunk',
            name='decoded',
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
