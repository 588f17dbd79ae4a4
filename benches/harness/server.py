"""A Tidemill server of one's own, gone with its data at the end."""

import json
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from harness.machine import cpu_seconds, memory
from harness.wire import Client


class Server:
    """A new server over an empty directory. Nothing is configured but what is given: checkpoints are on."""

    def __init__(self, binary, http=False, **settings):
        self.directory = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
        ready = self.directory / "ready"
        config = self.directory / "tidemill.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self.log = (self.directory / "log").open("w")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [binary, "start", "--config", config, "--data", self.directory / "data", "--listen", "127.0.0.1:0",
             "--http", "127.0.0.1:0" if http else "off", "--ready-file", ready],
            stdout=self.log, stderr=self.log)
        while True:
            try:
                addresses = json.loads(ready.read_text())
                self.address, self.http = addresses["sql"], addresses.get("http")
                break
            except (OSError, ValueError, KeyError):
                pass
            if self.process.poll() is not None:
                raise RuntimeError("the server did not start: " + Path(self.log.name).read_text())
            time.sleep(0.002)
        self.seconds_to_start = time.monotonic() - began
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def connect(self):
        return Client(self.address)

    def cpu_seconds(self):
        return cpu_seconds(self.pid)

    def metric(self, name, label):
        """A sample of /metrics whose labels have `label` among them."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            return sample(answer.read().decode(), name, label)

    def memory(self, name="VmHWM"):
        return memory(self.pid, name)

    def stop(self):
        """At once: nobody needs what it would write on its way out."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def sample(text, name, label):
    """
    >>> sample('x_seconds{pipeline="p",quantile="0.5"} 0.25', "x_seconds", 'quantile="0.5"')
    0.25
    """
    for line in text.splitlines():
        if line.startswith(name + "{") and label in line:
            return float(line.rpartition(" ")[2])
    raise ValueError(f"there is no {name} with {label}")
