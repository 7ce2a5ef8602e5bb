"""What is promised of the image, each looked at from where it can be seen: the image, the kernel, a caller.

A check never stops the run: it says what it found. What stops it is an engine that does not do as it is told.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from inference_client import Client
from testbed.sidecar import sidecar_process
from tests import corpus
from tests.image.engine import Engine, EngineFailed
from tests.image.pod import LOCKED, PROJECT, Limits, Pod

EXPECTED_TEXT: Final = "Hello Triton 2026"
# The sentence begins after two seconds (testbed/media/SOURCES.md); the detector has one probability for 512 samples.
SPEECH_FROM_S, WINDOW_S, THRESHOLD, SLACK_S = 2.0, 512 / 16_000, 0.5, 0.5
# What compilers, linkers and installers of packages are called.
COMPILERS: Final = "cc c++ cpp gcc g++ clang tcc ld as make cmake rustc cargo go pip pip3 uv"
LABELS: Final = ("title", "description", "version", "revision", "created", "documentation")
# Who looks the bill of materials over, where `make image-lint` has made it.
TOOLS: Final = PROJECT / ".venv-image" / "bin" / "python"
# Compiling the kernels alone takes 13 s; 9.4 s in all were seen without it, on a busy machine.
START_CPU_S: Final = 15.0
# Seconds that an orchestrator would call too long; out of the air.
DRAIN_S, REFUSAL_S, COMPILE_S = 10.0, 120.0, 300.0
# The least memory that docs/image.md names.
LEAST_MIB: Final = 512
# The drain's own bound is 25 s; the engine kills past this.
KILL_S = "40"
_SHOWN: Final = 150


@dataclass
class Checks:
    """What was looked at, whether it is as promised, and what was found; `told` hears of each at once."""

    told: Callable[[str, bool, str], None]
    rows: list[tuple[str, bool, str]] = field(default_factory=list)

    def that(self, what: str, holds: object, found: object) -> None:
        text = textwrap.shorten(str(found), _SHOWN, placeholder=" …")
        self.rows.append((what, bool(holds), text))
        self.told(what, bool(holds), text)

    @property
    def targets(self) -> list[dict[str, Any]]:
        """The same in the form of a benchmark's targets."""
        return [
            {"target": what, "figure": found, "bound": "holds", "holds": holds}
            for what, holds, found in self.rows
        ]


def sizes(engine: Engine, image: str) -> dict[str, int]:
    """Bytes of the image, and of its base where the engine tells a Dockerfile's lines: ours begins with SHELL."""
    whole = int(engine.done("image", "inspect", "--format", "{{.Size}}", image))
    form = ("--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}")
    newest_first = engine.done("history", *form, image).splitlines()
    ours = next((at for at, line in enumerate(newest_first) if "SHELL [" in line), None)
    if ours is None:
        return {"bytes": whole}
    return {"bytes": whole, "base_bytes": sum(int(line.split()[0]) for line in newest_first[ours + 1 :])}


def contents(engine: Engine, image: str, checks: Checks) -> None:
    """What is in it, in a container that serves nothing."""

    def shell(script: str) -> str:
        entry = ("--entrypoint=/bin/sh", image, "-c", script)
        return engine.once("look", "--network=none", *LOCKED, *entry).everything

    config = json.loads(engine.done("image", "inspect", "--format", "{{json .Config}}", image))
    checks.that("its user is 10001:10001", config["User"] == "10001:10001", config["User"])
    ports = sorted(config["ExposedPorts"])
    checks.that("it tells its ports", ports == ["50051/tcp", "9400/tcp"], ", ".join(ports))
    labels = {key.rpartition(".")[2]: value for key, value in (config["Labels"] or {}).items()}
    told = ", ".join(f"{key} {labels.get(key)}" for key in ("version", "revision", "created"))
    checks.that("it has OCI labels", labels.keys() >= {*LABELS}, told)
    compilers = shell(f"for each in {COMPILERS}; do command -v $each; done").split()
    compilers += [name for name in shell("dpkg-query -Wf '${Package}\\n'").split() if name.endswith("-dev")]
    checks.that("no compiler, linker or installer is in it", not compilers, compilers or "none")
    others = shell("find /opt/venv /etc/sidecar ! -user root | head -n 3").split()
    checks.that("what runs is root's, not the server's", not others, others or "all of it")
    bill = json.loads(shell("cat /usr/share/sbom/sidecar.cdx.json"))
    parts = {part["name"]: part["version"] for part in bill["components"]}
    named = {"multimodal-sidecar", "av", "libavcodec", "numpy", "tini", "python", _pillow(parts)}
    shown = ", ".join(f"{name} {parts[name]}" for name in sorted(named & parts.keys()))
    whole = named <= parts.keys()
    checks.that("its bill of materials names all that is in it", whole, f"{len(parts)} parts: {shown}")
    if TOOLS.exists():
        checks.that("the bill is valid CycloneDX 1.6", *_valid(bill))


def _pillow(parts: Mapping[str, str]) -> str:
    return "pillow-simd" if "pillow-simd" in parts else "pillow"


def _valid(bill: Mapping[str, Any]) -> tuple[bool, str]:
    code = (
        "import sys; from cyclonedx.validation.json import JsonStrictValidator; from cyclonedx.schema import "
        "SchemaVersion; error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()); "
        "print(error or 'no error'); sys.exit(error is not None)"
    )
    done = subprocess.run(
        [TOOLS, "-c", code], input=json.dumps(bill), check=False, capture_output=True, text=True
    )
    return done.returncode == 0, done.stdout + done.stderr


def refusals(engine: Engine, image: str, checks: Checks) -> None:
    """Where it cannot run it says so, and why; with little, and nowhere to write, it runs."""
    alone = ("--network=none", *LOCKED)
    needs = engine.once("needs", *alone, "--entrypoint=/bin/cat", image, "/opt/venv/needs-processor")
    if not needs.status:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            cpuinfo = Path(folder) / "cpuinfo"
            cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 sse4_2 avx\n")
            cpuinfo.chmod(0o644)
            older = f"--volume={cpuinfo}:/proc/cpuinfo:ro"
            ended = engine.once("older", *alone, older, image, timeout_s=REFUSAL_S)
        flag = needs.out.strip()
        checks.that(
            f"a processor without {flag} is refused in words",
            ended.status == 2 and f"lacks {flag}" in ended.err,
            f"status {ended.status}: {ended.err}",
        )
    least = (f"--memory={LEAST_MIB}m", f"--memory-swap={LEAST_MIB}m")
    bare = engine.start("bare", "--network=none", "--read-only", "--cap-drop=ALL", *least, image)
    took = engine.says(bare, "serving on", REFUSAL_S)
    engine.done("stop", "--time", KILL_S, bare)
    code = engine.state(bare)["ExitCode"]
    checks.that(
        f"it serves with {LEAST_MIB} MiB, the engine's own /dev/shm and nowhere to write, and ends with 0",
        code == 0,
        f"served after {took:.2f} s, status {code}",
    )


def start(used_s: float, log: str, checks: Checks) -> None:
    """How it started: by the CPU that it took, since how long it took is also other work's doing."""
    checks.that(f"its start takes at most {START_CPU_S:g} s of CPU", used_s <= START_CPU_S, f"{used_s:.2f} s")
    lines = [line.partition("kernels: ")[2] for line in log.splitlines() if "kernels: " in line]
    compiled_none = bool(lines) and all(line.endswith(" 0 compiled") for line in lines)
    checks.that("kernels come with the image, none is compiled at the start", compiled_none, "; ".join(lines))


def confinement(engine: Engine, name: str, checks: Checks) -> None:
    """What its processes may do, as the kernel tells of each of them."""
    look = (
        "for each in /proc/[0-9]*; do grep -hE '^(Uid|CapEff|NoNewPrivs|Seccomp):' $each/status | tr '\\n\\t' '  '; "
        "tr '\\0' ' ' <$each/cmdline; echo; done 2>/dev/null"
    )
    lines = engine.inside(name, "/bin/sh", "-c", look).out.splitlines()
    told = [line for line in lines if "sidecar" in line and "grep" not in line]
    for what, key, value in (
        ("every process runs as 10001", "Uid", "10001"),
        ("none has a capability", "CapEff", "0000000000000000"),
        ("none can gain privileges", "NoNewPrivs", "1"),
        ("the engine's seccomp filter is on", "Seccomp", "2"),
    ):
        found = sorted({line.partition(f"{key}:")[2].split()[0] for line in told})
        checks.that(what, found == [value], f"{key} {', '.join(found)} in {len(told)} processes")
    places = ("/", "/etc/sidecar", "/opt/venv", "/opt/venv/bin", "/usr/bin", "/var/tmp")
    wrote = [at for at in places if not engine.inside(name, "/bin/sh", "-c", f"touch {at}/x").status]
    checks.that("its root file system is read-only", not wrote, wrote or f"refused in {', '.join(places)}")
    script = "cp /bin/true /tmp/x && /tmp/x; code=$?; rm -f /tmp/x; exit $code"
    ran = engine.inside(name, "/bin/sh", "-c", script)
    checks.that("what is written to /tmp cannot be run", ran.status, ran.err)
    first = engine.inside(name, "/bin/cat", "/proc/1/comm").out.strip()
    checks.that("tini is its first process", first == "tini", first)


def work(engine: Engine, pod: Pod, expected: Mapping[str, int], limits: Limits, checks: Checks) -> None:
    """Real pictures and sounds through the real Triton, and what the server tells of itself then."""
    done = engine.once("agent", *pod.agent("answers", "/corpus", "/media"), timeout_s=300.0)
    if done.status:
        raise EngineFailed(
            f"the caller failed:\n{done.everything}\nthe sidecar said:\n{engine.log(pod.sidecar)}"
        )
    found = json.loads(done.out.splitlines()[-1])
    other = [name for name, value in expected.items() if found["crc32"].get(name) != value]
    checks.that(
        "each picture and sound reaches the model with the bits that this checkout gives",
        not other,
        f"{len(expected) - len(other)} of {len(expected)}" + "".join(f", not {name}" for name in other),
    )
    checks.that("a model reads the text", found["text"].strip() == EXPECTED_TEXT, repr(found["text"]))
    speaks = [at * WINDOW_S for at, chance in enumerate(found["speech"]) if chance > THRESHOLD]
    begins = speaks[0] if speaks else -1.0
    heard = abs(begins - SPEECH_FROM_S) < SLACK_S
    checks.that("a model hears when somebody speaks", heard, f"from {begins:.1f} s on")
    metrics = found["metrics"]
    shared, copied = (
        metrics.get(f"sidecar_handover_{how}_bytes_total", -1.0) for how in ("shared", "copied")
    )
    checks.that(
        "tensors go to Triton by shared memory, none is copied",
        metrics.get("sidecar_handover_shared_memory") == 1 and shared > 0 and copied == 0,
        f"{shared:.0f} bytes by their place, {copied:.0f} copied",
    )
    cores = min(limits.quota, limits.cpu_count)
    checks.that("the thread plan saw the quota", found["cores"] == cores, f"{found['cores']} cores")
    cpus = [cores for what, cores in found["bounds"] if "affinity" in what or "cpuset" in what]
    plan = ", ".join(f"{name} {number}" for name, number in found["plan"].items())
    seen = bool(cpus) and min(cpus) == limits.cpu_count
    checks.that("it saw the cpuset", seen, f"{min(cpus, default=None)} CPUs; {plan}")
    saw = found["memory_bytes"] == limits.memory_mib << 20
    checks.that("it saw the memory limit", saw, f"{found['memory_bytes'] >> 20} MiB")


def cpu_s(engine: Engine, name: str) -> float:
    """CPU seconds that its control group has used, by version 2's file or version 1's; no other work adds to them."""
    script = "awk '/^usage_usec/ {print $2 * 1000}' /sys/fs/cgroup/cpu.stat; cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
    told = engine.inside(name, "/bin/sh", "-c", f"({script}) 2>/dev/null | head -n 1").out.strip()
    return float(told or "nan") / 1e9


def memory(engine: Engine, name: str, limits: Limits, checks: Checks) -> None:
    """The height of its control group: version 2's file, or version 1's."""
    files = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
    told = engine.inside(name, "/bin/sh", "-c", f"cat {files} 2>/dev/null | head -n 1").out.strip()
    height = int(told or 0) >> 20
    state = engine.state(name)
    holds = 0 < height < limits.memory_mib and not state["OOMKilled"] and state["Running"]
    found = f"{height} of {limits.memory_mib} MiB at its height"
    checks.that("its memory, the arena included, stays below its limit", holds, found)


def drain(engine: Engine, pod: Pod, checks: Checks) -> None:
    """SIGTERM while a call is with the model."""
    agent = engine.popen("caller", *pod.agent("drain", "/media/text.jpg"))
    assert agent.stdout is not None
    first = agent.stdout.readline().strip()
    begun = time.monotonic()
    engine.done("stop", "--time", KILL_S, pod.sidecar)
    took = time.monotonic() - begun
    rest = agent.communicate(timeout=REFUSAL_S)[0].splitlines()
    told = json.loads(rest[-1]) if first == "under way" and rest else {}
    state = engine.state(pod.sidecar)
    answered = "answered" in told
    checks.that(
        "SIGTERM loses no call that is under way", answered, "answered" if answered else told or first
    )
    refused = told.get("refused")
    checks.that("what comes meanwhile is refused by name", refused == "ShuttingDown", refused)
    well = state["ExitCode"] == 0 and took < DRAIN_S
    checks.that(
        f"it ends with 0 within {DRAIN_S:g} s", well, f"status {state['ExitCode']} after {took:.1f} s"
    )
    checks.that("nothing was killed for memory", not state["OOMKilled"], f"OOMKilled {state['OOMKilled']}")
    left = engine.inside(pod.triton, "/bin/sh", "-c", "ls /dev/shm | grep sidecar").out.split()
    checks.that("it leaves no shared memory behind", not left, left or "none")


def pixels_of_this_checkout() -> dict[str, int]:
    """The checksum of what each picture and sound of the corpus becomes here, by whatever Pillow this checkout has."""
    folder = PROJECT / "testbed" / "checkpoints"
    settings = {
        "models.clip.recipe": str(folder / "clip-vit-base-patch32"),
        "models.whisper.recipe": str(folder / "whisper-tiny"),
    }
    # The first start in a checkout compiles the kernels.
    with (
        sidecar_process(settings, start_timeout_s=COMPILE_S) as sidecar,
        Client(sidecar.address, timeout=60.0) as client,
    ):

        def bits(model: str, name: str) -> int:
            prepared = client.preprocess(model, corpus.path(name), data_type="FP32")
            (tensor,) = prepared.tensors.values()
            return crc32(tensor.tobytes())

        return {name: bits("clip", name) for name in corpus.PICTURES} | {
            name: bits("whisper", name) for name in corpus.SOUNDS
        }
