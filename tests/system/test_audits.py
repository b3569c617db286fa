"""A trusted volunteer trains a newcomer's round again, with real processes."""

import sqlite3
from contextlib import closing

import pytest
from processes import Place, blobs_dataset, model_file

pytestmark = pytest.mark.system

ELSEWHERE = """
create trigger elsewhere after update of address_block on accounts_volunteer
when new.name = 'ned' and new.address_block != 'elsewhere'
begin update accounts_volunteer set address_block = 'elsewhere' where id = new.id; end
"""
"""Here everyone has one address, and who has the newcomer's does not audit it."""
TRUSTED = """
update rounds_participation set accepted = 30, audited = 2
where volunteer_id = (select id from accounts_volunteer where name = 'tess')
"""


def change(here: Place, statement: str) -> None:
    with closing(sqlite3.connect(here.folder / "server" / "db.sqlite3", timeout=30)) as database:
        database.execute(statement)
        database.commit()


def test_a_trusted_volunteer_trains_a_newcomers_round_again(here: Place):
    blobs_dataset(here.folder)
    # Rounds so short that the evaluator looks at few of them.
    here.publish(model_file(here.folder, round={"max_steps": 50, "max_seconds": 2}))
    change(here, ELSEWHERE)
    here.join("tess")
    here.until(lambda: here.merged_updates_of("tess") > 0, "tess trains")
    change(here, TRUSTED)
    here.join("ned")
    here.until(lambda: "Checked a round" in here.said("tess"), "tess trains a round again")
    passed = "select cosine from rounds_audit where state in ('passed', 'again')"
    here.until(lambda: here.rows(passed), "the server looks at what came of it")
    assert here.rows(passed)[0][0] > 0.95
    ned = "select audited from rounds_participation p join accounts_volunteer v"
    ned += " on v.id = p.volunteer_id where v.name = 'ned'"
    assert here.rows(ned)[0][0] > 0
    tess = next(one for one in here.stands().training if one.name == "tess")
    assert tess.audits > 0
