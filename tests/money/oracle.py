"""What calls cost, and what they come to, worked out from the documents alone: nothing of the service is used here.

    python oracle.py CASE.json

A case holds the prices (the shipped file, and what was changed since, in order), the calls, and everything that the
service answered of them. The report, on standard output, names every disagreement; there being one, the exit code is 1.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

Row = dict[str, Any]

NAMED = 40  # disagreements that a report spells out
NANO, THOUSAND = Decimal("1e-9"), Decimal(1000)
LARGEST = Decimal(2**63 - 1) * NANO  # an eight-byte integer of nano-dollars
LONG_PROMPT = 200_000
GEOGRAPHIES = ("us", "eu", "apac", "jp", "au", "global", "us-gov", "ca", "sa")
CLASSES = ("input", "output", "cache_write", "cache_write_1h", "cache_read")
TOKENS = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens")
ADDED = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")  # the hour's part is in its whole
PERIODS = ("hourly", "daily", "weekly", "monthly")
DIMENSIONS = {
    "user": "user_id",
    "model": "model_id",
    "region": "region",
    "endpoint": "endpoint_type",
    "key": "key_id",
}


# Times


def at(text: str) -> datetime:
    """A time to the millisecond; a date is its start in UTC."""
    digits = text.removesuffix("Z")
    if "." in digits:
        whole, fraction = digits.split(".")
        digits = f"{whole}.{fraction[:3]:0<3}"
    return datetime.fromisoformat(digits).replace(tzinfo=timezone.utc)


def shown(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def begin(period: str, time: datetime) -> datetime:
    """The start of the period that holds this time, in UTC; weeks are those of ISO 8601."""
    hour = time.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    match period:
        case "hourly":
            return hour
        case "daily":
            return day
        case "weekly":
            return day - timedelta(days=day.isoweekday() - 1)
        case "monthly":
            return day.replace(day=1)
    raise ValueError(period)


def following(period: str, start: datetime) -> datetime:
    match period:
        case "hourly":
            return start + timedelta(hours=1)
        case "daily":
            return start + timedelta(days=1)
        case "weekly":
            return start + timedelta(days=7)
    return (start + timedelta(days=31)).replace(day=1)  # from the first of a month into the next one


# Prices


@dataclass(frozen=True)
class Price:
    """Dollars per 1,000 tokens by class; a class that is not there is not offered. `rates` is None where one ended."""

    region: str
    model: str
    since: datetime
    rates: dict[str, Decimal] | None
    long: dict[str, Decimal] | None = None


def price(region: str, model: str, since: datetime, given: dict[str, Any], names: dict[str, str]) -> Price:
    """`names` says how `given` spells the classes, and the two prices of long prompts."""

    def read(name: str) -> Decimal | None:
        value = given.get(names[name])
        return None if value in (None, "") else Decimal(str(value))

    rates = {name: rate for name in CLASSES if (rate := read(name)) is not None}
    long_input, long_output = read("long_input"), read("long_output")
    long = None
    if long_input is not None and long_output is not None:
        # What is cached stands in the same proportion to the input as in the usual tier.
        long = {name: rounded(rate * long_input / rates["input"]) for name, rate in rates.items()}
        long |= {"input": long_input, "output": long_output}
    return Price(region, model, since, rates, long)


def rounded(dollars: Decimal) -> Decimal:
    return dollars.quantize(NANO, ROUND_HALF_UP)


IN_FILES = {name: f"{name}_per_1k" for name in CLASSES} | {
    "long_input": "input_long_per_1k",
    "long_output": "output_long_per_1k",
}
IN_REQUESTS = {name: f"{name}_cost_per_1k_tokens" for name in CLASSES} | {
    "long_input": "input_long_cost_per_1k_tokens",
    "long_output": "output_long_cost_per_1k_tokens",
}
ALWAYS = at("2000-01-01")


class Prices:
    """Every price of every time."""

    def __init__(self, shipped: str, changes: Iterable[dict[str, Any]]) -> None:
        self.rows: dict[tuple[str, str], list[Price]] = defaultdict(list)
        with open(shipped, newline="", encoding="utf-8") as file:
            self.add_file(csv.DictReader(file))
        for change in changes:
            match change["kind"]:
                case "import":
                    self.add_file(lines_of(change["csv"]))
                case "set":
                    body = change["body"]
                    key = change["region"], change["model_id"]
                    self.add(price(*key, at(body["valid_from"]), body, IN_REQUESTS))
                case "end":
                    self.add(Price(change["region"], change["model_id"], at(change["at"]), None))
                case other:
                    raise ValueError(other)

    def add_file(self, rows: Iterable[dict[str, str]]) -> None:
        for row in rows:
            since = at(row["valid_from"]) if row.get("valid_from") else ALWAYS
            self.add(price(row["region"], row["model_id"], since, row, IN_FILES))

    def add(self, one: Price) -> None:
        self.rows[one.region, one.model].append(one)

    def of(self, region: str, model: str, time: datetime) -> Price | None:
        """The first that there is: by the id as it is, by the id in an ARN, by that without its geography; each in the
        region of the call, then in any."""
        for name in names(model):
            for place in (region, "*"):
                begun = [one for one in self.rows.get((place, name), ()) if one.since <= time]
                # The latest counts, and of those of one time the one that was given last.
                last = max(enumerate(begun), key=lambda one: (one[1].since, one[0]), default=None)
                if last is not None and last[1].rates is not None:
                    return last[1]
        return None


def lines_of(text: str) -> csv.DictReader:
    return csv.DictReader(io.StringIO(text, newline=""))


def names(model: str) -> list[str]:
    found = [model]
    if model.startswith("arn:"):
        kind, _, rest = model.split(":", 5)[5].partition("/")
        if kind not in ("foundation-model", "inference-profile"):
            return found
        found.append(rest.rsplit("/", 1)[-1])
    prefix, _, bare = found[-1].partition(".")
    if prefix in GEOGRAPHIES and "." in bare:
        found.append(bare)
    return found


def cost(row: Row, prices: Prices) -> tuple[Decimal | None, Price | None]:
    """Of one call; None = not known."""
    if row["operation"] == "count_tokens":
        return Decimal(0), None
    if row["estimated"] and all(row[name] is None for name in TOKENS):
        return None, None
    found = prices.of(row["region"], row["model_id"], at(row["request_time"]))
    counts = {name: row[f"{name}_tokens"] or 0 for name in CLASSES}
    counts["cache_write"] = max(counts["cache_write"] - counts["cache_write_1h"], 0)
    prompt = sum(counts.values()) - counts["output"]
    rates = {} if found is None else found.rates
    if found is not None and found.long is not None and prompt > LONG_PROMPT:
        rates = found.long
    used = {name: count for name, count in counts.items() if count > 0}
    if any(name not in rates for name in used):
        return None, found
    total = rounded(sum((count * rates[name] / THOUSAND for name, count in used.items()), Decimal(0)))
    return (total if total <= LARGEST else None), found


def dollars(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:.9f}"


# Sums


@dataclass
class Sum:
    requests: int = 0
    successes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    estimated: int = 0
    times: dict[str, list[int]] = field(default_factory=lambda: {"response_time_ms": [], "time_to_first_byte_ms": []})

    def add(self, row: Row, worth: Decimal | None) -> None:
        self.requests += 1
        self.successes += row["outcome"] == "success"
        self.estimated += row["estimated"]
        self.unpriced += worth is None
        self.cost += worth or 0
        for name in TOKENS:
            self.tokens[name] += row[name] or 0
        for name, known in self.times.items():
            if row[name] is not None:
                known.append(row[name])

    def answer(self) -> dict[str, Any]:
        """As the service is to say it."""

        def average(known: list[int]) -> int | None:
            return int((Decimal(sum(known)) / len(known)).quantize(Decimal(1), ROUND_HALF_UP)) if known else None

        return {
            "total_requests": self.requests,
            "successful_requests": self.successes,
            **{f"total_{name}": count for name, count in self.tokens.items()},
            "total_tokens": sum(self.tokens[name] for name in ADDED),
            "avg_response_time_ms": average(self.times["response_time_ms"]),
            "avg_time_to_first_byte_ms": average(self.times["time_to_first_byte_ms"]),
            "total_cost_usd": None if self.unpriced and not self.cost else dollars(self.cost),
            "unpriced_requests": self.unpriced,
            "estimated_requests": self.estimated,
        }


@dataclass(frozen=True)
class Call:
    """A call, the start of each period that holds it, and what it cost."""

    row: Row
    time: datetime
    starts: dict[str, datetime]
    cost: Decimal | None
    price: Price | None


def called(row: Row, prices: Prices) -> Call:
    time = at(row["request_time"])
    starts = {period: begin(period, time) for period in PERIODS} | {"total": time}
    return Call(row, time, starts, *cost(row, prices))


def sums(question: dict[str, Any], calls: list[Call], kept: dict[str, str]) -> dict[tuple[Any, ...], Sum]:
    """What the answer to a question is to be: by the start of the period, and by what it is grouped by."""
    period, by = question["period_type"], [DIMENSIONS[name] for name in question["group_by"]]
    bounds = [at(text) for text in (question["start_date"], kept.get(period)) if text]
    start, end = max(bounds, default=ALWAYS), at(question["end_date"] or "2199-12-31")
    found: dict[tuple[Any, ...], Sum] = defaultdict(Sum)
    for call in calls:
        row, first = call.row, call.starts[period]
        if question["user_id"] not in (None, row["user_id"]) or question["model_id"] not in (None, row["model_id"]):
            continue
        if start <= first < end:
            place = "total" if period == "total" else first
            found[(place, *(row[name] for name in by))].add(row, call.cost)
    return {(place if place == "total" else shown(place), *rest): one for (place, *rest), one in found.items()}


# The comparison


class Report:
    def __init__(self) -> None:
        self.calls = self.priced = self.groups = self.answers = self.metered = self.found = 0
        self.named: list[str] = []

    def differs(self, what: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            self.found += 1
            if len(self.named) < NAMED:
                self.named.append(f"{what}: {theirs!r} where {ours!r} was worked out")

    def all_differ(self, what: str, ours: Row, theirs: Row) -> None:
        """Of what was worked out, each figure that is another one, or is not there."""
        if all(name in theirs and theirs[name] == value for name, value in ours.items()):
            return
        for name, value in ours.items():
            self.differs(f"{what}, {name}", value, theirs.get(name, "nothing"))

    def text(self) -> str:
        return json.dumps(vars(self), indent=1)


def compare_calls(report: Report, case: dict[str, Any], calls: list[Call]) -> None:
    """Each call's cost, in every list and file that has it."""
    lists = [("export.jsonl", [json.loads(line) for line in case["jsonl"]], calls)]
    if case["csv"] is not None:
        lists.append(("export.csv", [from_csv(row) for row in lines_of(case["csv"])], calls))
    if case["records"] is not None:
        lists.append(("records", case["records"], calls))
    for user_id, lines in case["own"].items():
        own = [call for call in calls if call.row["user_id"] == int(user_id)]
        lists.append((f"export of user {user_id}", [json.loads(line) for line in lines], own))
    for source, rows, those in lists:
        wanted = {call.row["call_id"]: call for call in those}
        report.differs(f"{source}, number of calls", len(those), len(rows))
        report.differs(f"{source}, calls", sorted(wanted), sorted(row["call_id"] for row in rows))
        order = [(row["request_time"], row["id"]) for row in rows]
        report.differs(f"{source}, newest first", sorted(order, reverse=True), order)
        for row in rows:
            if (call := wanted.get(row["call_id"])) is None:
                continue
            what = f"{source}, call {row['call_id']} of {row['model_id']} in {row['region']} at {row['request_time']}"
            report.all_differ(what, record(call), row)
            compare_price(report, what, row, case["price_ids"], call.price)
            report.calls += 1
            report.priced += bool(call.cost)


def record(call: Call) -> Row:
    """As the service is to tell of a call; its own id, and that of the price, are its own affair."""
    counts = [call.row[name] for name in ADDED if call.row[name] is not None]
    return {name: value for name, value in call.row.items() if name not in ("id", "price_id")} | {
        "request_time": shown(call.time),
        "total_tokens": sum(counts) if counts else None,
        "success": call.row["outcome"] == "success",
        "cost_usd": dollars(call.cost),
    }


def compare_price(report: Report, what: str, row: Row, ids: dict[str, list[str]], found: Price | None) -> None:
    """The row of the price ledger that a call names is the one that it was priced with."""
    named = None if row["price_id"] is None else ids.get(str(row["price_id"]))
    report.differs(f"{what}, price", found and [found.region, found.model, shown(found.since)], named)


def from_csv(row: dict[str, str]) -> Row:
    """As the JSON has it."""
    numbers = {"id", "user_id", "key_id", "price_id", "status", "upstream_attempts", "total_tokens", *TOKENS}
    numbers |= {"response_time_ms", "time_to_first_byte_ms"}

    def read(name: str, text: str) -> Any:
        if text == "":
            return None
        return int(text) if name in numbers else {"true": True, "false": False}.get(text, text)

    return {name: read(name, text) for name, text in row.items()}


def compare_answer(report: Report, answer: dict[str, Any], calls: list[Call], kept: dict[str, str]) -> None:
    question, groups = answer["question"], answer["summaries"]
    period, by = question["period_type"], question["group_by"]
    what = f"{question['route']} {period} by {','.join(by) or 'nothing'}"
    what += "".join(f" {name}={question[name]}" for name in FILTERS if question[name] is not None)
    wanted, seen = sums(question, calls, kept), set()
    report.differs(f"{what}, total", len(wanted), answer["total"])
    report.differs(f"{what}, number of groups", len(wanted), len(groups))
    if period == "total":
        ranked = [Decimal(group["total_cost_usd"] or 0) for group in groups]
    else:
        ranked = [group["period_start"] for group in groups]
    report.differs(f"{what}, order", sorted(ranked, reverse=True), ranked)
    absent = [DIMENSIONS[name] for name in DIMENSIONS if name not in by]
    for group in groups:
        start = "total" if period == "total" else group["period_start"]
        place = (start, *(group[DIMENSIONS[name]] for name in by))
        ours = wanted.get(place, Sum()).answer() | {"period_type": period}
        if period != "total":
            ours["period_end"] = shown(following(period, at(start)))
        report.all_differ(f"{what}, {place}", ours, group)
        report.differs(f"{what}, not grouped by", [], [name for name in absent if name in group])
        seen.add(place)
        report.groups += 1
    report.differs(f"{what}, groups that are missing or twice", len(groups), len(wanted.keys() & seen))
    report.answers += 1


FILTERS = ("user_id", "model_id", "start_date", "end_date")


def metered(case: dict[str, Any], calls: list[Call]) -> Iterator[tuple[Row, dict[str, Any], dict[str, int]]]:
    """Calls with what Bedrock says that it was asked and answered of them, and the tokens that it named."""
    upstream = {call["request_id"]: call for call in case["upstream"]}
    for row in (call.row for call in calls):
        call = upstream.get(row["upstream_request_id"])
        if call is not None and row["operation"] != "count_tokens":
            told = case["echoed"].get(call["request_id"]) or call["usage"]
            yield row, call, told or {}


def compare_upstream(report: Report, case: dict[str, Any], calls: list[Call]) -> None:
    """The tokens of each call are those that Bedrock named: all of them, where the whole answer arrived and was sound;
    else none that it did not name."""
    for row, call, told in metered(case, calls):
        echoed = call["request_id"] in case["echoed"]
        if call["scenario"] == "echo" and not echoed:
            continue  # Bedrock does not know what it was made to say
        what = f"call {row['call_id']} ({row['operation']}, {call['scenario']}, {row['outcome']})"
        written, hour = row["cache_write_tokens"] or 0, row["cache_write_1h_tokens"] or 0
        ours = {
            "input": row["input_tokens"] or 0,
            "output": row["output_tokens"] or 0,
            "cache_read": row["cache_read_tokens"] or 0,
            "cache_write_5m": written - hour,
            "cache_write_1h": hour,
        }
        theirs = {name: told.get(name, 0) for name in ours}
        whole = call["finished"] and row["outcome"] in ("success", "upstream_error")
        if whole and call["scenario"] not in DAMAGED:
            report.differs(f"{what}, tokens", theirs, ours)
        else:
            beyond = [name for name in ours if ours[name] > theirs[name]]
            report.differs(f"{what}, tokens beyond {theirs}: {ours}", [], beyond)
            unknown = row["input_tokens"] is None
            report.differs(f"{what}, input", theirs["input"], theirs["input"] if unknown else ours["input"])
        if row["outcome"] == "success" and not (call["scenario"] == "abortusage" and row["streamed"]):
            report.differs(f"{what}, estimated", not told and not echoed, row["estimated"])
        report.metered += 1


# Upstream goes on after what it spoilt, and the service does not read that any more.
DAMAGED = ("badcrc", "badjson", "badlen", "garbage")


def main(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        case = json.load(file)
    report = Report()
    with localcontext() as context:
        context.prec = 80
        prices = Prices(case["shipped"], case["changes"])
        # What was sent, where that is known; else what was recorded, of which the cost is not looked at.
        rows = case["sent"] or [json.loads(line) for line in case["jsonl"]]
        calls = [called(row, prices) for row in rows]
        if case["jsonl"] is not None:
            compare_calls(report, case, calls)
        compare_upstream(report, case, calls)
        for answer in case["answers"]:
            compare_answer(report, answer, calls, case["kept"])
    print(report.text())
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
