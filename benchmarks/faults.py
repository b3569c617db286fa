"""A living project past hundreds of random faults: is anything lost, and does anything count twice?

A real server and real volunteers that train, and one volunteer more that keeps account of what it
is told. One fault after the other: processes are killed, the disk is full, the clock jumps, the
database, the broker and the store go away, lines break, requests come twice, in pieces and in the
wrong order. After each the project must make another version. In the end every update that was
ever acknowledged must be merged once, or refused for a reason; the versions' own counts must agree
with the updates in them; and each volunteer must hold the very bits that its version is named by.
`--seed` repeats a run's faults.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import engines
from common import Bar, end_cleanly, report
from faults_kinds import KINDS, NotHere, draw
from faults_project import Project, Scribe
from handcar import files

FAULTS, QUICK_FAULTS = 300, 40
NAMES = ("ada", "emmy", "grace")
VERSION_S = 120.0
"""So soon after a fault there must be another version."""
SETTLED_S = 180.0
DECIDED_S = 360.0
"""An update that waits for the evaluator goes on without it after five minutes."""
OURS = re.compile("on the server's disk|could not be read|checksum|the server fails")
"""In the reason of a refusal: it was not the update's fault, so the update was lost."""


@dataclass
class Findings:
    """What was found."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """From the end of each fault to the next version, by kind."""
    tried: int = 0
    stuck: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    other_bits: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    acknowledged: int = 0
    merged: int = 0
    refused: int = 0
    versions: int = 0

    @property
    def wrong(self) -> list[str]:
        """Everything that should not be."""
        return [*self.stuck, *self.lost, *self.doubled, *self.other_bits]


def main() -> None:
    """Break things and report; the exit code says whether anything was wrong."""
    wanted = _arguments()
    end_cleanly()
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(engines.made(wanted, folder))
        project = stack.enter_context(Project(folder, engine, NAMES[: wanted.volunteers]))
        found = run(project, wanted)
        if found.wrong:
            print(project.logs(), file=sys.stderr)
    _report(wanted, engine.name, found, time.monotonic() - began)
    sys.exit(1 if found.wrong else 0)


def run(project: Project, wanted: argparse.Namespace) -> Findings:
    """Let the project live through the faults, then look at what is left."""
    found = Findings()
    project.begin()
    with Scribe(project, random.Random(wanted.seed)) as scribe:
        kinds = [kind for kind in KINDS if not wanted.kind or kind in wanted.kind]
        drawn = iter(draw(10 * wanted.faults, wanted.seed, kinds))
        while found.tried < wanted.faults and len(found.skipped) < len(kinds):
            kind, rng = next(drawn)
            if kind not in found.skipped:
                _one(project, scribe, kind, rng, found)
        last = project.newest()
        _until(lambda: all((project.holds(name) or 0) >= last for name in project.names))
        project.note_acknowledged()
    project.leave()
    found.other_bits += scribe.faults
    _judge(project, scribe, found)
    return found


def _one(project: Project, scribe: Scribe, kind: str, rng: random.Random, found: Findings) -> None:
    project.note_acknowledged()
    try:
        KINDS[kind](project, scribe, rng)
    except NotHere as reason:
        found.skipped[kind] = str(reason)
        return
    found.tried += 1
    began = time.monotonic()
    before = project.newest()
    # One may have been under way: the second is made of what came after the fault.
    if _until(lambda: project.version() >= before + 2, VERSION_S):
        found.seconds[kind].append(time.monotonic() - began)
    else:
        found.stuck.append(f"no version within {VERSION_S:.0f} s of fault {found.tried}, {kind}")
    project.note_acknowledged()
    text = f"{found.tried} {kind}: {time.monotonic() - began:.1f} s"
    print(f"{text}, version {project.version()}", file=sys.stderr, flush=True)


def _until(condition, wait_s: float = SETTLED_S) -> bool:  # noqa: ANN001
    """Wait for a condition; say whether it came about."""
    ends = time.monotonic() + wait_s
    while time.monotonic() < ends:
        if condition():
            return True
        time.sleep(0.25)
    return False


# -- what is left ------------------------------------------------------------------------------


def _judge(project: Project, scribe: Scribe, found: Findings) -> None:
    waiting = "select count(*) from rounds_update where state in ('received', 'checked')"
    _until(lambda: project.rows(waiting)[0][0] == 0, DECIDED_S)
    _judge_updates(project, found)
    _judge_versions(project, found)
    _judge_weights(project, scribe, found)


def _judge_updates(project: Project, found: Findings) -> None:
    """Each update that was acknowledged is merged, or refused for a reason."""
    rows = project.rows(
        "select id, state, reason, examined_at, gate_wanted, audit, attempts, leased_until "
        "from rounds_update"
    )
    known = {str(row[0]).replace("-", ""): row[1:] for row in rows}
    acknowledged = project.all_acknowledged()
    found.acknowledged = len(acknowledged)
    for id in sorted(acknowledged):
        state, reason, *more = known.get(id, ("unknown", None))
        if state == "merged":
            found.merged += 1
        elif state == "refused" and reason and not OURS.search(reason):
            found.refused += 1
        else:
            found.lost.append(f"update {id} was acknowledged and is {state}: {reason} {more}")


def _judge_versions(project: Project, found: Findings) -> None:
    """Each version has as many updates as it says, none twice, and no more work than theirs."""
    counted = project.rows(
        "select v.number, v.updates, count(u.id), v.records_merged, coalesce(sum(u.records), 0) "
        "from rounds_version v left join rounds_update u on u.version_id = v.id "
        "where not v.undone group by v.id, v.number, v.updates, v.records_merged order by v.number"
    )
    found.versions = counted[-1][0]
    for number, told, count, _, _ in counted:
        if told != count:
            found.doubled.append(f"version {number} says {told} updates, {count} name it")
    for (before, _, _, records, _), (number, _, _, total, own) in zip(
        counted, counted[1:], strict=False
    ):
        if number == before + 1 and total - records > own:
            found.doubled.append(f"version {number} counts {total - records} records of {own}")
    same = project.rows(
        "select sha256, count(*) from rounds_update where state = 'merged' "
        "group by sha256 having count(*) > 1"
    )
    found.doubled += [f"{count} merged updates have the bytes {digest}" for digest, count in same]
    parts = project.rows(
        "select p.number, p.updates_merged, count(u.id) from rounds_participation p "
        "left join (select u.* from rounds_update u join rounds_version v on v.id = u.version_id "
        "where u.state = 'merged' and not v.undone) u "
        "on u.volunteer_id = p.volunteer_id and u.model_id = p.model_id "
        "group by p.id, p.number, p.updates_merged"
    )
    found.doubled += [
        f"volunteer {number} is said to have {told} merged updates, and has {count}"
        for number, told, count in parts
        if told != count
    ]


def _judge_weights(project: Project, scribe: Scribe, found: Findings) -> None:
    """Each volunteer holds the very bits of its version."""
    named = dict(project.rows("select number, weights_sha256 from rounds_version"))
    held = [path for name in project.names for path in project.held(name)]
    held += list((project.folder / "scribe" / "weights").glob("[0-9]*-*"))
    if len(held) < len(project.names) + 1:
        found.other_bits.append(f"only {len(held)} volunteers hold weights")
    for path in held:
        digest = files.digest_file(path)
        number, _, told = path.name.partition("-")
        if digest != named.get(int(number)) or digest != f"sha256:{told}":
            found.other_bits.append(f"{path.relative_to(project.folder)} has the digest {digest}")


# -- report ------------------------------------------------------------------------------------


def _report(wanted: argparse.Namespace, engine: str, found: Findings, seconds: float) -> None:
    rows = [
        (kind, len(times), statistics.median(times), max(times))
        for kind, times in sorted(found.seconds.items())
    ]
    report(
        wanted,
        f"{found.tried} faults of seed {wanted.seed} on {engine} in {seconds:.0f} s; "
        "seconds until two more versions were there",
        ("fault", "times", "median", "most"),
        rows,
        [
            Bar("faults.tried", found.tried, "faults"),
            Bar("faults.lost", len(found.lost), "updates"),
            Bar("faults.doubled", len(found.doubled), "counts that are wrong"),
            Bar("faults.other_bits", len(found.other_bits), "volunteers"),
            Bar("faults.stuck", len(found.stuck), "faults with no version after them"),
            Bar("faults.acknowledged", found.acknowledged, "updates"),
            Bar("faults.merged", found.merged, "updates"),
            Bar("faults.refused", found.refused, "updates, with a reason"),
            Bar("faults.versions", found.versions, "versions"),
        ],
    )
    for kind, reason in found.skipped.items():
        print(f"left out: {kind}: {reason}", file=sys.stderr)
    for text in found.wrong:
        print(f"WRONG (seed {wanted.seed}): {text}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FAULTS} faults")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--faults", type=int, help=f"how many; {FAULTS} by default")
    parser.add_argument("--seed", type=int, default=0, help="repeats the faults of a run")
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    parser.add_argument("--volunteers", type=int, default=len(NAMES), help="up to three")
    engines.add_arguments(parser)
    wanted = parser.parse_args()
    if wanted.faults is None:
        wanted.faults = QUICK_FAULTS if wanted.quick else FAULTS
    return wanted


if __name__ == "__main__":
    main()
