"""What the scripts of the Python clients are made of.

A check is a function; what it returns is what the client saw. `run` prints one line of JSON per check: what it saw, or why it
failed. Whoever reads the lines compares those of two servers, so that no check says by itself what is right.
"""

import decimal
import json
import signal
import sys

SECONDS_PER_CHECK = 60

_checks = []


def check(name):
    """Registers a check under the name that the table of clients has."""

    def register(body):
        _checks.append((name, body))
        return body

    return register


def plain(value):
    """A value as JSON, with its type where JSON has not the type."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, decimal.Decimal):
        # Numbers may be shown with more zeros behind the point.
        text = format(value, "f")
        return "Decimal " + (text.rstrip("0").rstrip(".") if "." in text else text)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (memoryview, bytearray)):
        value = bytes(value)
    return f"{type(value).__name__} {value!r}"


class TooLong(Exception):
    pass


def _too_long(_signal, _frame):
    raise TooLong(f"no answer within {SECONDS_PER_CHECK} s")


def reason(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


def run(client, only=None):
    """Runs the checks; `client` is its name and version."""
    print(json.dumps({"client": client}), flush=True)
    only = only or sys.argv[1:]
    signal.signal(signal.SIGALRM, _too_long)
    for name, body in _checks:
        if only and name not in only:
            continue
        line = {"check": name}
        signal.alarm(SECONDS_PER_CHECK)
        try:
            line["saw"] = plain(body())
        except Exception as error:  # pylint: disable=broad-except
            line["failed"] = reason(error)
        finally:
            signal.alarm(0)
        print(json.dumps(line), flush=True)


# Values of every type, as SQL, by subject.
VALUES = {
    "numbers": "1::int2, -2::int4, 9007199254740993::int8, 1.5::float4, -0.1::float8, 'NaN'::float8, "
    "12.34::numeric(10, 2), 123456789012345678.123::numeric(30, 3), true, false",
    "text": "'x'::text, 'yy'::varchar(5), 'z'::char(3), '\\x00ff'::bytea, 'ü€'::text, ''::text, 'n'::name",
    "times": "date '2024-02-29', time '12:34:56.789', timestamp '2024-02-29 12:34:56.789012', "
    "timestamptz '2024-02-29 12:34:56+02', timestamp '1900-01-01 00:00:00', interval '1 day 2 hours', interval '-90 minutes'",
    "uuid, json": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '{\"a\": [1, null]}'::json, '{\"b\": 1.5}'::jsonb",
    "nulls": "NULL::int4, NULL::text, NULL::numeric, NULL::timestamptz, NULL::uuid, NULL::text[], NULL",
    "arrays": "ARRAY[1, 2, NULL]::int4[], ARRAY['a', 'b\"c', NULL]::text[], ARRAY[1.5, 2.25]::numeric[], '{}'::int8[], "
    "ARRAY[true, false], ARRAY[date '2024-02-29'], ARRAY[timestamptz '2024-02-29 12:34:56+00'], ARRAY[0.5]::float8[]",
}
