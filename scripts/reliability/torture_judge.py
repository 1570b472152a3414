"""The judge of `scripts/torture`: what the database itself saw, and what must never have happened.

Triggers write down every change of a step, a value, a parameter, a trial's state and a claim, with
the claim that held the trial at that moment. They know nothing of the code that writes, so they
cannot share its mistakes. Who wrote they cannot see: a fenced-out worker's step under its
successor's claim shows as a step written twice, once the successor comes to it. All below `audit`
and the two `read_` functions is pure.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import sqlalchemy as sa

LOG = "torture_log"
FINISHED = ("COMPLETE", "PRUNED", "FAIL")
# a trial whose worker died must be back in the queue by then
FOUND_WITHIN_S = 30.0
# kills after which nobody is there to find it
_LEFT_ALONE = ("power cut", "supervisor SIGKILL", "supervisor SIGTERM", "supervisor SIGINT")

_TRIAL = "(SELECT study_id FROM trials WHERE trial_id = {row}.trial_id)"
_CLAIM = "(SELECT token FROM search_claims WHERE trial_id = {row}.trial_id)"
# table -> kind, study, token, name, number, text
_WATCHED = {
    "trial_intermediate_values": ("step", _TRIAL, _CLAIM, "step", "intermediate_value", None),
    "trial_values": ("value", _TRIAL, _CLAIM, "objective", "value", None),
    "trial_params": ("param", _TRIAL, _CLAIM, "param_name", "param_value", None),
    "trials": ("state", "{row}.study_id", _CLAIM, "number", None, "state"),
    "search_claims": ("claim", "{row}.study_id", "{row}.token", "number", None, "owner"),
}
_DEEDS = ("INSERT", "UPDATE", "DELETE")

Number = float | None


# ------------------------------------------------------------------------------- in the database


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    kind: step, value, param, state or claim. deed: insert, update or delete. name: the step, the
    objective, the parameter. old, new: the value, the state, or a claim's owner. token: of the
    claim on the trial at that moment; None: nobody had one.
    """

    seq: int
    at_s: float
    kind: str
    deed: str
    trial_id: int | None
    name: str | None
    old: float | str | None
    new: float | str | None
    token: int | None


@dataclass(frozen=True)
class Row:
    """A trial as it stands in the store; values by objective."""

    number: int
    state: str
    steps: Mapping[int, Number]
    values: Mapping[int, Number]
    params: Mapping[str, Number]


def audit(engine: sa.Engine) -> None:
    """Make the log and its triggers, where they are not there yet, in a store with claims."""
    sqlite = engine.dialect.name == "sqlite"
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY"
    with engine.begin() as connection:
        if sa.inspect(connection).has_table(LOG):
            return
        connection.exec_driver_sql(
            f"CREATE TABLE {LOG} (seq {key}, at_s DOUBLE PRECISION, kind TEXT, deed TEXT,"
            " study_id INTEGER, trial_id INTEGER, name TEXT, old_number DOUBLE PRECISION,"
            " new_number DOUBLE PRECISION, old_text TEXT, new_text TEXT, token INTEGER)"
        )
        for table in _WATCHED:
            for deed in _DEEDS:
                for statement in _trigger(table, deed, sqlite):
                    connection.exec_driver_sql(statement)


def end_audit(engine: sa.Engine) -> None:
    """Take log and triggers away again."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        for table in _WATCHED:
            for deed in _DEEDS:
                name = _name(table, deed)
                where = "" if sqlite else f" ON {table}"
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}{where}")
                if not sqlite:
                    connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {LOG}")


def _name(table: str, deed: str) -> str:
    return f"torture_{table}_{deed.lower()}"


def _trigger(table: str, deed: str, sqlite: bool) -> Iterator[str]:
    kind, study, token, name, number, text = _WATCHED[table]
    row = "OLD" if deed == "DELETE" else "NEW"

    def cell(which: str, column: str | None, there: bool) -> str:
        return f"CAST({which}.{column} AS TEXT)" if column and there else "NULL"

    def digits(which: str, there: bool) -> str:
        return f"{which}.{number}" if number and there else "NULL"

    had, has = deed != "INSERT", deed != "DELETE"
    now = (
        "(julianday('now') - 2440587.5) * 86400.0"
        if sqlite
        else "extract(epoch FROM clock_timestamp())"
    )
    cells = [
        *(now, f"'{kind}'", f"'{deed.lower()}'", study.format(row=row), f"{row}.trial_id"),
        *(f"CAST({row}.{name} AS TEXT)", digits("OLD", had), digits("NEW", has)),
        *(cell("OLD", text, had), cell("NEW", text, has), token.format(row=row)),
    ]
    insert = (
        f"INSERT INTO {LOG} (at_s, kind, deed, study_id, trial_id, name, old_number, new_number,"
        f" old_text, new_text, token) VALUES ({', '.join(cells)});"
    )
    # a beat changes nothing that matters here
    of = " OF trial_id" if (table, deed) == ("search_claims", "UPDATE") else ""
    when = f"CREATE TRIGGER {_name(table, deed)} AFTER {deed}{of} ON {table}"
    if sqlite:
        yield f"{when} BEGIN {insert} END"
    else:
        yield (
            f"CREATE FUNCTION {_name(table, deed)}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {insert} RETURN NULL; END $$"
        )
        yield f"{when} FOR EACH ROW EXECUTE FUNCTION {_name(table, deed)}()"


def read_log(engine: sa.Engine, study_id: int) -> list[Entry]:
    """What the triggers saw of one study, in order."""
    query = sa.text(
        "SELECT seq, at_s, kind, deed, trial_id, name, old_number, new_number, old_text, new_text,"
        f" token FROM {LOG} WHERE study_id = :study ORDER BY seq"
    )
    with engine.connect() as connection:
        rows = connection.execute(query, {"study": study_id}).mappings().all()
    return [
        Entry(
            **{name: row[name] for name in ("seq", "at_s", "kind", "deed", "trial_id", "name")},
            old=_either(row["old_number"], row["old_text"]),
            new=_either(row["new_number"], row["new_text"]),
            token=row["token"],
        )
        for row in rows
    ]


def _either(number: float | None, text: str | None) -> float | str | None:
    return text if number is None else number


def read_rows(engine: sa.Engine, study_id: int) -> dict[int, Row]:
    """trial_id -> the trial as it stands, read without Optuna."""

    def cells(connection: sa.Connection, table: str) -> dict[int, dict[Any, Number]]:
        _, _, _, name, number, _ = _WATCHED[table]
        found: dict[int, dict[Any, Number]] = defaultdict(dict)
        query = sa.text(
            f"SELECT t.trial_id, x.{name}, x.{number} FROM {table} x"
            " JOIN trials t ON t.trial_id = x.trial_id WHERE t.study_id = :study"
        )
        for trial_id, key, value in connection.execute(query, {"study": study_id}):
            found[trial_id][key] = value
        return found

    with engine.connect() as connection:
        steps, values, params = (cells(connection, table) for table in list(_WATCHED)[:3])
        query = sa.text(
            "SELECT trial_id, number, CAST(state AS TEXT) FROM trials WHERE study_id = :study"
        )
        return {
            trial_id: Row(number, state, steps[trial_id], values[trial_id], params[trial_id])
            for trial_id, number, state in connection.execute(query, {"study": study_id})
        }


# -------------------------------------------------------------------------------------- the judge

# number -> token -> the rows of its history.json
Histories = Mapping[int, Mapping[int, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Kill:
    """at_s: seconds since 1970. kind: what was done. workers: the processes whose work it cost."""

    at_s: float
    kind: str
    workers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that is known of a study that has ended."""

    rows: Mapping[int, Row]
    log: Sequence[Entry]
    histories: Histories = field(default_factory=dict)
    kills: Sequence[Kill] = ()
    # trial_id -> `digest` of a finished trial as it was seen earlier
    seen: Mapping[int, str] = field(default_factory=dict)


def judge(evidence: Evidence, total: int) -> list[str]:
    """Everything that should not be, a line each; empty: nothing was lost."""
    return [
        *not_as_asked(evidence.rows, total),
        *without_a_claim(evidence),
        *changed_after_the_end(evidence),
        *written_twice(evidence),
        *with_gaps(evidence.rows),
        *not_as_written(evidence),
        *behind_a_report(evidence),
        *too_much_repeated(evidence),
        *found_too_late(evidence),
    ]


def not_as_asked(rows: Mapping[int, Row], total: int) -> list[str]:
    """Too few or too many finished trials, and trials that are not finished."""
    states = Counter(row.state for row in rows.values())
    finished = states["COMPLETE"] + states["PRUNED"]
    found = [] if finished == total else [f"{finished} finished trials at the end, not {total}"]
    bad = [row for row in rows.values() if row.state not in ("COMPLETE", "PRUNED")]
    return found + [f"trial {row.number} is {row.state} at the end" for row in bad]


def without_a_claim(evidence: Evidence) -> list[str]:
    """Steps, values, parameters and verdicts that nobody with a lease can have written."""
    return [
        f"{_trial(evidence, entry)}: {entry.kind} {_as_text(entry)} was written without a lease"
        for entry in evidence.log
        if entry.token is None and (entry.kind in ("step", "value", "param") or _is_verdict(entry))
    ]


def changed_after_the_end(evidence: Evidence) -> list[str]:
    """Finished trials that something was written to, and that differ from what was seen before."""
    verdicts: dict[int | None, Entry] = {}
    valued: set[tuple[int | None, str | None]] = set()
    found = []
    for entry in evidence.log:
        verdict = verdicts.get(entry.trial_id)
        if entry.kind == "claim":
            continue
        if verdict is None:
            if _is_verdict(entry):
                verdicts[entry.trial_id] = entry
        # the verdict's own transaction writes the state first and then the value
        elif not _is_its_value(entry, verdict, valued):
            found.append(
                f"{_trial(evidence, entry)}: {entry.kind} {_as_text(entry)} after it was finished"
            )
        if entry.kind == "value":
            valued.add((entry.trial_id, entry.name))
    return found + not_as_seen(evidence.rows, evidence.seen)


def not_as_seen(rows: Mapping[int, Row], seen: Mapping[int, str]) -> list[str]:
    """Finished trials that are gone, or other than when they were seen before."""
    found = []
    for trial_id, before in seen.items():
        row = rows.get(trial_id)
        if row is None:
            found.append(f"trial id {trial_id}: finished, and then lost")
        elif digest(row) != before:
            found.append(f"trial {row.number}: finished, and then changed")
    return found


def digest(row: Row) -> str:
    """A short mark of all that a trial holds."""
    held = (row.number, row.state, *(sorted(x.items()) for x in (row.steps, row.values)))
    return hashlib.sha256(repr((held, sorted(row.params.items()))).encode()).hexdigest()[:16]


def _is_verdict(entry: Entry) -> bool:
    return entry.kind == "state" and entry.new in FINISHED


def _is_its_value(entry: Entry, verdict: Entry, valued: set[tuple[int | None, str | None]]) -> bool:
    return (
        (entry.kind, entry.deed) == ("value", "insert")
        and entry.token == verdict.token
        and (entry.trial_id, entry.name) not in valued
    )


def written_twice(evidence: Evidence) -> list[str]:
    """Steps with more than one report."""
    found = []
    for entry in evidence.log:
        if entry.kind == "step" and entry.deed != "insert":
            found.append(f"{_trial(evidence, entry)}: step {_as_text(entry)}: {entry.deed}")
    times = Counter(
        (entry.trial_id, entry.name)
        for entry in evidence.log
        if (entry.kind, entry.deed) == ("step", "insert")
    )
    numbers = {trial_id: row.number for trial_id, row in evidence.rows.items()}
    return found + [
        f"trial {numbers.get(trial_id or 0)}: step {step} was reported {count} times"
        for (trial_id, step), count in times.items()
        if count > 1
    ]


def with_gaps(rows: Mapping[int, Row]) -> list[str]:
    """Trials whose steps are not 1, 2, 3..."""
    return [
        f"trial {row.number}: steps {sorted(row.steps)} are not whole"
        for row in rows.values()
        if sorted(row.steps) != list(range(1, len(row.steps) + 1))
    ]


def not_as_written(evidence: Evidence) -> list[str]:
    """Trials that are not what all writes in the log come to."""
    written: dict[int | None, dict[tuple[str, str | None], float | str | None]] = defaultdict(dict)
    for entry in evidence.log:
        if entry.kind == "state":
            written[entry.trial_id]["state", None] = entry.new
        elif entry.kind != "claim" and entry.deed == "delete":
            written[entry.trial_id].pop((entry.kind, entry.name), None)
        elif entry.kind != "claim":
            written[entry.trial_id][entry.kind, entry.name] = entry.new
    found = []
    for trial_id, row in evidence.rows.items():
        stands: dict[tuple[str, str | None], float | str | None] = {
            ("state", None): row.state,
            **{("step", str(step)): value for step, value in row.steps.items()},
            **{("value", str(objective)): value for objective, value in row.values.items()},
            **{("param", name): value for name, value in row.params.items()},
        }
        if stands != written[trial_id]:
            odd = sorted(
                f"{kind} {name}" if name else kind
                for kind, name in stands.keys() | written[trial_id].keys()
                if stands.get((kind, name)) != written[trial_id].get((kind, name))
            )
            found.append(f"trial {row.number}: {', '.join(odd)} not as written")
    missing = [i for i, cells in written.items() if i not in evidence.rows and cells["state", None]]
    return found + [f"trial id {trial_id} is gone" for trial_id in missing]


# ------------------------------------------------------------------------- epochs and checkpoints


def starts(tokens: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[int, int]:
    """token -> the epoch whose checkpoint it went on from; 0: from the beginning.

    What a claim took over stands in its history digit for digit, with the seconds that each epoch
    took; what it trained itself took other seconds.
    """
    found = {}
    for token in sorted(tokens):
        mine = tokens[token]
        older = [tokens[other] for other in tokens if other < token]
        found[token] = max((_common(mine, other) for other in older), default=0)
    return found


def _common(mine: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine, other, strict=False))))


def repeated(tokens: Mapping[int, Sequence[Mapping[str, Any]]]) -> int:
    """How many epochs of one trial were trained again, as far as a checkpoint tells."""
    rows = {
        (int(row["epoch"]), json.dumps(row, sort_keys=True))
        for history in tokens.values()
        for row in history
    }
    return len(rows) - len({epoch for epoch, _ in rows})


def behind_a_report(evidence: Evidence) -> list[str]:
    """Claims that went on from an epoch before the last one that had been reported."""
    taken = {
        (entry.trial_id, entry.token): entry.seq
        for entry in evidence.log
        if (entry.kind, entry.deed) == ("claim", "update")
    }
    found = []
    for trial_id, row in evidence.rows.items():
        for token, start in starts(evidence.histories.get(row.number, {})).items():
            since = taken.get((trial_id, token), 0)
            reported = [
                int(entry.name or 0)
                for entry in evidence.log
                if entry.kind == "step" and entry.trial_id == trial_id and entry.seq < since
            ]
            if start < max(reported, default=0):
                found.append(
                    f"trial {row.number}: claim {token} went on from epoch {start}, but epoch"
                    f" {max(reported)} had been reported"
                )
    return found


def too_much_repeated(evidence: Evidence) -> list[str]:
    """More epochs trained again than kills."""
    again = sum(repeated(tokens) for tokens in evidence.histories.values())
    if again <= sum(max(1, len(kill.workers)) for kill in evidence.kills):
        return []
    return [f"{again} epochs were trained again after {len(evidence.kills)} kills"]


# ------------------------------------------------------------------------------- how fast it heals


def recoveries(log: Sequence[Entry], kills: Sequence[Kill]) -> list[tuple[Kill, float | None]]:
    """Each trial that a kill interrupted: seconds until it waited or another claim had it.

    Counted from the last kill that left nobody to look for it, where others followed this one.
    None: never. A trial that ended all the same was not interrupted.
    """
    alone = [kill.at_s for kill in kills if kill.kind.startswith(_LEFT_ALONE)]
    owners: dict[int, str] = {}
    for entry in log:
        if (entry.kind, entry.deed) == ("claim", "insert") and entry.token is not None:
            owners[entry.token] = str(entry.new).rpartition(":")[2]
    found = []
    for kill in kills:
        held: dict[int, int] = {}
        states: dict[int | None, float | str | None] = {}
        for entry in log:
            if entry.at_s > kill.at_s:
                break
            if entry.kind == "state":
                states[entry.trial_id] = entry.new
            elif entry.kind == "claim" and entry.deed == "delete":
                held.pop(entry.token or 0, None)
            elif entry.kind == "claim" and entry.trial_id is not None:
                held[entry.token or 0] = entry.trial_id
        for token, trial_id in held.items():
            if (
                owners.get(token) in {str(pid) for pid in kill.workers}
                and states.get(trial_id) == "RUNNING"
            ):
                after = _after(log, kill, trial_id, token)
                if after is not None:
                    back_s = kill.at_s + after
                    since_s = max([kill.at_s, *(at_s for at_s in alone if at_s < back_s)])
                    found.append((kill, back_s - since_s if after >= 0 else None))
    return found


def _after(log: Sequence[Entry], kill: Kill, trial_id: int, token: int) -> float | None:
    """Seconds; below 0: it never happened; None: the trial ended under the same claim."""
    for entry in log:
        if entry.at_s <= kill.at_s or entry.trial_id != trial_id:
            continue
        if entry.kind == "state" and entry.new == "WAITING":
            return entry.at_s - kill.at_s
        if _is_verdict(entry) and entry.token == token:
            return None
        if entry.kind == "claim" and entry.deed == "update" and entry.token != token:
            return entry.at_s - kill.at_s
    return -1.0


def found_too_late(evidence: Evidence) -> list[str]:
    """Trials that lay dead for longer than promised."""
    return [
        f"after {kill.kind} a trial lay dead for"
        f" {'ever' if seconds is None else f'{seconds:.1f} s'}"
        for kill, seconds in recoveries(evidence.log, evidence.kills)
        if seconds is None or seconds > FOUND_WITHIN_S
    ]


# ------------------------------------------------------------------------------------------ words


def read_histories(folder: Path) -> dict[int, dict[int, list[dict[str, Any]]]]:
    """The history of every claim below `runs/<study>`: number -> token -> rows."""
    found: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for path in folder.glob("*/*/history.json"):
        number, token = path.parent.parent.name, path.parent.name
        if number.isdecimal() and token.isdecimal():
            found[int(number)][int(token)] = json.loads(path.read_text(encoding="utf-8"))
    return dict(found)


def _trial(evidence: Evidence, entry: Entry) -> str:
    row = evidence.rows.get(entry.trial_id or 0)
    return f"trial id {entry.trial_id}" if row is None else f"trial {row.number}"


def _as_text(entry: Entry) -> str:
    if entry.kind == "state":
        return f"{entry.old} -> {entry.new}"
    change = f"{entry.new}" if entry.deed == "insert" else f"{entry.old} -> {entry.new}"
    return f"{entry.name} ({change})"
