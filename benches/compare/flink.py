"""A Flink cluster of one task manager with two slots on this machine, and queries on it.

Jars come from PyPI: the package apache-flink-libraries has Flink's whole distribution. The processes are started as Flink's
own scripts do, with the memory spelled out that those would work out.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

from harness.machine import cache, cpu_seconds, die, free_port, memory, say

VERSION = "2.3.0"
HERE = Path(__file__).resolve().parent / "flink"
SECONDS_MAX = 900
HEAP_MIB = int(os.environ.get("FLINK_HEAP_MIB", "8192"))

# Those that Flink's default configuration has.
OPENS = [f"--add-exports={package}=ALL-UNNAMED" for package in (
    "java.rmi/sun.rmi.registry", "jdk.compiler/com.sun.tools.javac.api", "jdk.compiler/com.sun.tools.javac.file",
    "jdk.compiler/com.sun.tools.javac.parser", "jdk.compiler/com.sun.tools.javac.tree",
    "jdk.compiler/com.sun.tools.javac.util", "java.security.jgss/sun.security.krb5",
)] + [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in (
    "java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time",
    "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks",
)]


def install():
    """The directory of the jars, fetched if it is not there."""
    for command in ("java", "javac"):
        if not shutil.which(command):
            die(f"{command} 17 is needed for Flink (apt-get install default-jdk-headless)")
    directory = cache() / f"flink-{VERSION}"
    if not directory.exists():
        say(f"fetching Flink {VERSION} from PyPI, 330 MB")
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".partial-"))
        try:
            venv.create(partial, with_pip=True)
            subprocess.run(
                [partial / "bin" / "pip", "install", "--quiet", "--no-deps", f"apache-flink-libraries=={VERSION}"],
                check=True)
            os.rename(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return next(directory.glob("lib*/python*/site-packages/pyflink/lib"))


class Cluster:
    """A job manager, who submits to it, and a task manager that is replaced between queries."""

    def __init__(self):
        self.jars = install()
        self.directory = Path(tempfile.mkdtemp(prefix="flink-bench-"))
        self.rest = free_port()
        self.processes = []
        self.task_manager = None
        self.submitter = None
        self._configure()
        try:
            self._compile()
            self._start("jobmanager", "-Xmx1g",
                        "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
                        "--executionMode", "cluster")
            self._wait(lambda: self.get("/overview") is not None, "the job manager does not answer")
            self.submitter = subprocess.Popen(
                ["java", *OPENS, "-Xmx1g", "-cp", f"{self.jars}/*:{self.directory}", "Submit", "127.0.0.1", str(self.rest)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log("submit"), text=True)
            self.processes.append(self.submitter)
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _configure(self):
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": free_port(),
            "jobmanager.bind-host": "localhost",
            "rest.address": "localhost",
            "rest.bind-address": "localhost",
            "rest.port": self.rest,
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "localhost",
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.cpu.cores": 2,
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.task.heap.size": f"{HEAP_MIB - 128}m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.network.min": "256m",
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.managed.size": "64m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "1g",
            "taskmanager.memory.jvm-overhead.max": "1g",
            "parallelism.default": 2,
            "state.backend.type": "hashmap",
            # Flink at its fastest: objects are not copied between operators, and there are no checkpoints.
            "pipeline.object-reuse": "true",
            "io.tmp.dirs": self.directory,
        }
        text = "".join(f"{key}: {value}\n" for key, value in settings.items())
        (self.directory / "config.yaml").write_text(text)

    def _compile(self):
        subprocess.run(["javac", "-cp", f"{self.jars}/*", "-d", self.directory, HERE / "Submit.java"], check=True)

    def _log(self, name):
        return (self.directory / f"{name}.log").open("a")

    def _start(self, name, memory_options, main, *options):
        process = subprocess.Popen(
            ["java", *memory_options.split(), "-XX:+UseG1GC", *OPENS, "-cp", f"{self.jars}/*", main,
             "--configDir", str(self.directory), *options],
            stdout=self._log(name), stderr=subprocess.STDOUT, env={**os.environ, "FLINK_CONF_DIR": str(self.directory)})
        self.processes.append(process)
        return process

    def _wait(self, condition, message):
        give_up = time.monotonic() + 120
        while not condition():
            if time.monotonic() > give_up or any(p.poll() is not None for p in self.processes):
                logs = "".join(path.read_text()[-3000:] for path in self.directory.glob("*.log"))
                die(f"{message}\n{logs}")
            time.sleep(0.1)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            return None

    def _replace(self):
        """A new task manager, and no job that waits for it."""
        for job in (self.get("/jobs") or {}).get("jobs", []):
            if job["status"] not in ("FINISHED", "FAILED", "CANCELED"):
                request = urllib.request.Request(f"http://127.0.0.1:{self.rest}/jobs/{job['id']}?mode=cancel", method="PATCH")
                urllib.request.urlopen(request, timeout=30).close()
        self.renew()

    def renew(self):
        """A new task manager: memory that was taken for one query is not the next one's."""
        if self.task_manager:
            self.processes.remove(self.task_manager)
            end(self.task_manager)
        # Killed or ended, the job manager would wait for its heartbeat; until then its slots count.
        self._wait(lambda: (self.get("/overview") or {}).get("taskmanagers") == 0, "the task manager does not go")
        self.task_manager = self._start(
            "taskmanager", f"-Xms{HEAP_MIB}m -Xmx{HEAP_MIB}m -XX:MaxDirectMemorySize=384m -XX:MaxMetaspaceSize=256m",
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner")
        self._wait(lambda: (self.get("/overview") or {}).get("slots-available") == 2, "the task manager does not come")

    def _ask(self, kind, query, data):
        tables = self.directory / "tables.sql"
        tables.write_text((HERE / "tables.sql").read_text().replace("{data}", str(data / "csv")))
        self.submitter.stdin.write(f"{kind}\t{tables}\t{query}\n")
        self.submitter.stdin.flush()
        answer = self.submitter.stdout.readline().strip()
        word, _, rest = answer.partition(" ")
        if word == "ERROR" or not rest:
            raise RuntimeError(f"Flink: {rest or 'the submitter has ended'}")
        return rest

    def count(self, query, data):
        """The number of rows of the answer."""
        return int(self._ask("COUNT", query, data))

    def run(self, query, data):
        """From RUNNING to FINISHED."""
        cpu_before = cpu_seconds(self.task_manager.pid)
        job = self._ask("RUN", query, data)
        give_up = time.monotonic() + SECONDS_MAX
        while True:
            status = self.get(f"/jobs/{job}")
            if status and status["state"] in ("FINISHED", "FAILED", "CANCELED"):
                break
            if self.task_manager.poll() is not None:
                self._replace()
                raise RuntimeError("Flink's task manager has ended")
            if time.monotonic() > give_up:
                self._replace()
                raise RuntimeError(f"Flink: not done after {SECONDS_MAX} s")
            time.sleep(0.02)
        cpu_after = cpu_seconds(self.task_manager.pid)
        if status["state"] != "FINISHED":
            reason = (self.get(f"/jobs/{job}/exceptions") or {}).get("exceptionHistory", {}).get("entries", [{}])
            raise RuntimeError(f"Flink: the job is {status['state']}: {str(reason[:1])[:500]}")
        times = status["timestamps"]
        return {
            "seconds": (times["FINISHED"] - times["RUNNING"]) / 1000,
            "cpu_seconds": cpu_after - cpu_before,
            "peak_bytes": memory(self.task_manager.pid),
        }

    def stop(self):
        for process in reversed(self.processes):
            end(process)
        shutil.rmtree(self.directory, ignore_errors=True)


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
