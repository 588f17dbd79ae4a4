"""What a process took of the machine, and where things are."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def cache():
    """Outside of the checkout: what is fetched and generated outlives it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tidemill" / "bench"


def say(message):
    print(message, file=sys.stderr, flush=True)


def die(message):
    say(f"{Path(sys.argv[0]).name}: {message}")
    sys.exit(1)


def programs(*wanted, given=()):
    """
    The paths of compiled programs: those that are given, and what the checkout compiles to. "tidemill" is the server, "batch"
    is benches/batch.
    """
    found = {name: Path(path).resolve() for name, path in given if path}
    packages = {"tidemill": ["-p", "tidemill", "--bin", "tidemill"],
                "batch": ["-p", "tidemill-batch", "--bin", "tidemill-batch"]}
    missing = [name for name in wanted if name not in found]
    if missing:
        # All at once: alone, a package may be compiled with other features of what it depends on, and all of that anew.
        found |= build(missing, [option for name in missing for option in packages[name]])
    return [found[name] for name in wanted]


def build(names, options):
    # The same place as the tests', so that nothing is compiled twice.
    target = os.environ.get("CARGO_TARGET_DIR") or str(cache().parent / "target")
    command = ["cargo", "build", "--release", "--locked", "--message-format", "json-render-diagnostics", *options]
    done = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "CARGO_TARGET_DIR": target},
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        die(f"{' '.join(command)} failed")
    messages = map(json.loads, done.stdout.splitlines())
    made = {message["target"]["name"].removeprefix("tidemill-"): Path(message["executable"])
            for message in messages if message.get("executable")}
    return {name: made[name] for name in names}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    """For how long the process and its ended children had a core."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text())


def parse_stat(text):
    """
    >>> parse_stat("7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 100 50 25 25 20 0") * TICKS
    200.0
    """
    # Behind the name, which may hold anything: user and system time, and those of children.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory(pid, name="VmHWM"):
    """Bytes; VmHWM is the most there ever were, VmRSS what there are."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no {name}")


def run(command, **options):
    """Runs a command to its end. Its output, wall seconds, CPU seconds and most memory."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    output = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return output, {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def load():
    """How many processes wanted a core, on average over the last minute."""
    return os.getloadavg()[0]


def describe():
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    gib = int(total.split()[1]) / (1 << 20)
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, load {load():.1f} at the start"
