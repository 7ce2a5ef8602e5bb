"""Whichever way the sidecar comes into a pod, it is the same container: the chart's."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from scripts.chart_part import part, rendered
from sidecar.cli.main import run
from tests.helm.rendering import ROOT, Rendered

BARE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: vision}
spec:
  selector: {matchLabels: {app: vision}}
  template:
    metadata: {labels: {app: vision}}
    spec:
      containers:
        - name: triton
          image: nvcr.io/nvidia/tritonserver:26.06-py3
          command: [tritonserver, --model-repository=/models]
"""
OTHERWISE = ("restartPolicy", "lifecycle")


def included(**values: Any) -> Any:
    """The pod of the chart that includes the named templates."""
    (found,) = (each for each in rendered(values) if each["kind"] == "Deployment")
    return found["spec"]["template"]["spec"]


def injected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> list[Any]:
    monkeypatch.setattr("sys.stdin", io.StringIO(BARE))
    assert run(["inject", *flags], {}) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def without(container: Any, *keys: str) -> Any:
    return {key: value for key, value in container.items() if key not in keys}


@pytest.mark.parametrize("native", [True, False])
def test_bundle_and_named_templates_have_one_container(native: bool) -> None:
    values = {"sidecar": {"native": native}}
    pod = included(**values)
    mine = pod["initContainers"][0] if native else pod["containers"][1]
    assert mine == Rendered(values).sidecar


def test_in_a_pool_it_differs_only_in_how_it_starts_and_stops() -> None:
    beside, alone = Rendered({}).sidecar, Rendered({"mode": "pool"}).sidecar
    assert without(beside, *OTHERWISE) == without(alone, *OTHERWISE)
    assert "restartPolicy" not in alone


def test_the_commands_part_is_what_the_chart_renders() -> None:
    assert part() == yaml.safe_load((ROOT / "sidecar/cli/injected.yaml").read_text())


@pytest.mark.parametrize("native", [True, False])
def test_the_command_adds_what_the_template_includes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], native: bool
) -> None:
    workload, config = injected(monkeypatch, capsys, *([] if native else ["--plain"]))
    pod, model = workload["spec"]["template"]["spec"], included(sidecar={"native": native})
    mine = pod["initContainers"][0] if native else pod["containers"][1]
    theirs = model["initContainers"][0] if native else model["containers"][1]
    assert without(mine, "resources") == without(theirs, "resources")
    # 3Gi in another unit.
    memory = {"cpu": "2", "memory": "3072Mi"}
    assert mine["resources"] == {"limits": memory, "requests": memory}
    assert theirs["resources"]["limits"] == {"cpu": "2", "memory": "3Gi"}
    for key in ("volumes", "terminationGracePeriodSeconds", "securityContext"):
        assert pod[key] == model[key]
    triton = pod["containers"][0]
    assert triton["volumeMounts"] == model["containers"][0]["volumeMounts"]
    assert triton["lifecycle"] == model["containers"][0]["lifecycle"]
    (chart,) = (each for each in rendered({}) if each["kind"] == "ConfigMap")
    assert yaml.safe_load(config["data"]["config.yaml"]) == yaml.safe_load(chart["data"]["config.yaml"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here to build the component")
def test_the_kustomize_component_adds_it_to_workloads_with_its_label() -> None:
    command = ["kubectl", "kustomize", str(ROOT / "helm/examples/kustomize")]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = {each["metadata"]["name"]: each for each in yaml.safe_load_all(built)}
    for name in ("vision", "speech"):
        pod = found[name]["spec"]["template"]["spec"]
        assert pod["initContainers"][0] == included()["initContainers"][0]
        (triton,) = pod["containers"]
        assert {"name": "multimodal-sidecar-shm", "mountPath": "/dev/shm"} in triton["volumeMounts"]
        assert triton["image"] == "nvcr.io/nvidia/tritonserver:26.06-py3"
    assert [each["name"] for each in found["vision"]["spec"]["template"]["spec"]["initContainers"]] == [
        "multimodal-sidecar",
        "fetch",
    ]
    assert "initContainers" not in found["web"]["spec"]["template"]["spec"]
    assert found["multimodal-sidecar"]["kind"] == "ConfigMap"
