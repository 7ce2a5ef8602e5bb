"""`sidecar inject`: what comes out for other people's workloads, what comes out untouched, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.main import run
from sidecar.settings import load_settings

CHECKPOINTS = Path(__file__).parents[2] / "testbed" / "checkpoints"
PART = yaml.safe_load(resources.files("sidecar.cli").joinpath("injected.yaml").read_text())
SHM = "multimodal-sidecar-shm"
Said = pytest.CaptureFixture[str]


def deployment(kind: str = "Deployment", container: str = "", **pod: Any) -> str:
    """A workload with a Triton that has a model volume, and what is given besides."""
    triton = {
        "name": "triton",
        "image": "nvcr.io/nvidia/tritonserver:26.06-py3",
        "args": ["tritonserver", "--model-repository=/models"],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    } | (yaml.safe_load(container) or {})
    spec = {"containers": [triton], "volumes": [{"name": "models", "emptyDir": {}}]} | pod
    whole = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "vision", "labels": {"app": "vision"}},
    }
    labels = {"metadata": {"labels": {"app": "vision"}}}
    return yaml.safe_dump(
        whole | {"spec": spec if kind == "Pod" else {"template": labels | {"spec": spec}}}, sort_keys=False
    )


class Injected:
    """What the command made of a text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Said, text: str, *flags: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        self.status = run(["inject", *flags], {})
        self.text, self.told = capsys.readouterr()
        self.objects = [each for each in yaml.safe_load_all(self.text) if each]

    @property
    def pod(self) -> Any:
        (found,) = (each for each in self.objects if each["kind"] not in {"ConfigMap", "Service"})
        return found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]

    @property
    def sidecar(self) -> Any:
        return self.pod["initContainers"][0]

    @property
    def triton(self) -> Any:
        return self.pod["containers"][0]

    @property
    def volumes(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.pod["volumes"]}

    @property
    def config_map(self) -> Any:
        (found,) = (each for each in self.objects if each["kind"] == "ConfigMap")
        return found


class Inject:
    """The command, for a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, text: str, *flags: str) -> Injected:
        return Injected(self._monkeypatch, self._capsys, text, *flags)

    def refused(self, text: str, *flags: str) -> str:
        made = self(text, *flags)
        assert (made.status, made.text) == (2, "")
        return made.told


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> Inject:
    return Inject(monkeypatch, capsys)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for file in (CHECKPOINTS / "clip-vit-base-patch32").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "sidecar.yaml").write_text("models: {clip: {recipe: clip}}\nthreads: {image: 2}\n")
    return tmp_path / "sidecar.yaml"


class TestWhatIsAdded:
    @pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod"])
    def test_the_charts_own_container_goes_first_among_the_init_containers(
        self, inject: Inject, kind: str
    ) -> None:
        made = inject(deployment(kind, initContainers=[{"name": "fetch", "image": "x"}]))
        assert made.status == 0
        assert [each["name"] for each in made.pod["initContainers"]] == ["multimodal-sidecar", "fetch"]
        assert made.sidecar == PART["native"] | {"resources": made.sidecar["resources"]}

    def test_as_a_plain_container_it_stands_behind_the_others(self, inject: Inject) -> None:
        made = inject(deployment(), "--plain")
        assert [each["name"] for each in made.pod["containers"]] == ["triton", "multimodal-sidecar"]
        assert "initContainers" not in made.pod
        assert "restartPolicy" not in made.pod["containers"][1]
        assert made.pod["containers"][1]["lifecycle"] == PART["plain"]["lifecycle"]

    def test_both_containers_have_one_shared_memory_and_a_group_that_may_use_it(self, inject: Inject) -> None:
        made = inject(deployment(securityContext={"fsGroup": 7, "supplementalGroups": [5]}), "--shm", "3Gi")
        mount = {"name": SHM, "mountPath": "/dev/shm"}
        assert mount in made.sidecar["volumeMounts"]
        assert mount in made.triton["volumeMounts"]
        assert made.volumes[SHM]["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
        assert made.pod["securityContext"] == {"fsGroup": 7, "supplementalGroups": [5, 10001]}
        assert yaml.safe_load(made.config_map["data"]["config.yaml"])["arena"] == {"access": "group"}

    def test_its_memory_limit_holds_its_heap_and_the_shared_memory(self, inject: Inject) -> None:
        made = inject(deployment(), "--heap", "1536Mi", "--shm", "0.5Gi", "--cpu", "4")
        assert made.sidecar["resources"] == {
            "limits": {"cpu": "4", "memory": "2048Mi"},
            "requests": {"cpu": "4", "memory": "2048Mi"},
        }

    def test_what_triton_has_stays_and_what_it_lacks_comes(self, inject: Inject) -> None:
        made = inject(deployment())
        assert made.triton["args"] == [
            "tritonserver",
            "--model-repository=/models",
            "--allow-client-shm=true",
        ]
        assert {"name": "models", "mountPath": "/models"} in made.triton["volumeMounts"]
        assert made.triton["lifecycle"] == {"preStop": PART["modelServer"]["preStop"]}
        assert made.volumes["models"] == {"name": "models", "emptyDir": {}}

    @pytest.mark.parametrize(("grace", "expected"), [(None, 65), (10, 65), (600, 600)])
    def test_the_grace_is_never_made_shorter(self, inject: Inject, grace: int | None, expected: int) -> None:
        given: dict[str, Any] = {} if grace is None else {"terminationGracePeriodSeconds": grace}
        assert inject(deployment(**given)).pod["terminationGracePeriodSeconds"] == expected

    def test_a_longer_drain_is_waited_for(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("server: {drain_s: 39.5}")
        made = inject(deployment(), "--config", str(tmp_path / "s.yaml"))
        assert made.triton["lifecycle"]["preStop"] == {"sleep": {"seconds": 45}}
        assert made.pod["terminationGracePeriodSeconds"] == 80


class TestSettings:
    def test_the_servers_own_loader_takes_them_with_their_recipes(
        self, inject: Inject, settings: Path, tmp_path: Path
    ) -> None:
        made = inject(deployment(), "--config", str(settings))
        mounted = tmp_path / "mounted"
        items = {
            each["key"]: each["path"]
            for each in made.volumes["multimodal-sidecar-config"]["configMap"]["items"]
        }
        assert items.keys() == made.config_map["data"].keys()
        for key, path in items.items():
            (mounted / path).parent.mkdir(parents=True, exist_ok=True)
            (mounted / path).write_text(made.config_map["data"][key])
        loaded = load_settings(mounted / "config.yaml", {})
        assert loaded.models["clip"].recipe == mounted / "recipes/clip"
        assert loaded.threads.image == 2
        assert loaded.triton is not None
        assert loaded.triton.address == "127.0.0.1:8001"
        assert run(["serve", "--check", "--config", str(mounted / "config.yaml")], {}) == 0

    def test_it_asks_triton_where_triton_listens(self, inject: Inject) -> None:
        made = inject(deployment(container="args: [/opt/tritonserver, --grpc-port, '9001']"))
        assert "address: 127.0.0.1:9001" in made.config_map["data"]["config.yaml"]

    def test_it_asks_where_the_settings_say(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("triton: elsewhere:1\nworkers: 3\n")
        text = inject(deployment(), "--config", str(tmp_path / "s.yaml")).config_map["data"]["config.yaml"]
        assert yaml.safe_load(text)["triton"] == {"address": "elsewhere:1"}
        assert yaml.safe_load(text)["workers"] == {"processes": 3}

    def test_null_leaves_what_the_container_needs(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("triton: null\nserver: null\nlimits: {items: null}")
        text = inject(deployment(), "--config", str(tmp_path / "s.yaml")).config_map["data"]["config.yaml"]
        assert yaml.safe_load(text) == PART["config"] | {"triton": None, "limits": {}}

    def test_only_what_takes_a_restart_rolls_the_pods(self, inject: Inject, settings: Path) -> None:
        def digest(text: str) -> str:
            settings.write_text(text)
            (workload, _) = inject(deployment(), "--config", str(settings)).objects
            found: str = workload["spec"]["template"]["metadata"]["annotations"][
                "multimodal-sidecar/restart-for"
            ]
            return found

        first = digest("threads: {image: 1}")
        assert digest("threads: {image: 2}\nworkers: {processes: 2}\nverdict: {window_s: 5}") == digest(
            "workers: {processes: 1}"
        )
        for text in (
            "threads: {image: 3}",
            "limits: {items: 3}",
            "formats: {deny: [webp]}",
            "models: {a: {}}",
        ):
            assert digest(text) == first
        assert digest("gate: {patience_s: 3}") != first
        assert digest("workers: {start_s: 3}") != digest("workers: {processes: 1}")
        assert digest("workers: {processes: 1}") == first
        assert digest("workers: {processes: 0}") != first

    def test_a_config_map_of_somebody_elses_is_mounted_and_none_is_made(self, inject: Inject) -> None:
        made = inject(deployment(), "--config-map", "mine", "--recipe-file", "clip/preprocessor_config.json")
        assert made.volumes["multimodal-sidecar-config"]["configMap"] == {
            "name": "mine",
            "items": [
                {"key": "config.yaml", "path": "config.yaml"},
                {
                    "key": "recipes.clip.preprocessor_config.json",
                    "path": "recipes/clip/preprocessor_config.json",
                },
            ],
        }
        assert [each["kind"] for each in made.objects] == ["Deployment"]

    def test_it_lies_in_the_workloads_namespace(self, inject: Inject) -> None:
        text = deployment().replace("name: vision", "name: vision\n  namespace: gpu", 1)
        assert inject(text).config_map["metadata"]["namespace"] == "gpu"


class TestTheStream:
    OTHERS = "# a comment\nkind: Service\nmetadata: {name: a}   # stays\n"

    def test_what_it_has_nothing_to_do_with_comes_out_to_the_byte(self, inject: Inject) -> None:
        made = inject(f"{self.OTHERS}---\n{deployment()}---\n{self.OTHERS}")
        assert made.text.startswith(self.OTHERS)
        assert f"---\n{self.OTHERS}---\n" in made.text

    @pytest.mark.parametrize("flags", [[], ["--plain"], ["--config-map", "mine"]])
    def test_twice_is_once(self, inject: Inject, flags: list[str]) -> None:
        once = inject(f"{self.OTHERS}---\n{deployment()}", *flags)
        assert inject(once.text, *flags).text == once.text

    def test_what_was_added_before_is_exchanged(self, inject: Inject) -> None:
        again = inject(inject(deployment()).text, "--plain", "--image", "other:2", "--shm", "2Gi")
        assert again.text == inject(deployment(), "--plain", "--image", "other:2", "--shm", "2Gi").text

    def test_a_list_is_looked_into(self, inject: Inject) -> None:
        whole = {
            "apiVersion": "v1",
            "kind": "List",
            "items": [yaml.safe_load(deployment()), {"kind": "Service"}],
        }
        (made, _) = inject(yaml.safe_dump(whole)).objects
        pod = made["items"][0]["spec"]["template"]["spec"]
        assert pod["initContainers"][0]["name"] == "multimodal-sidecar"
        assert made["items"][1] == {"kind": "Service"}

    def test_a_workload_without_a_model_server_is_left_alone(self, inject: Inject) -> None:
        pod = "{containers: [{name: web, image: w}]}"
        web = f"kind: Deployment\nmetadata: {{name: web}}\nspec: {{template: {{spec: {pod}}}}}\n"
        assert inject(f"{web}---\n{deployment()}").text.startswith(web)

    def test_one_may_be_named_among_several(self, inject: Inject) -> None:
        other = deployment().replace("name: vision", "name: other", 1)
        made = inject(f"{deployment()}---\n{other}", "--workload", "Deployment/other")
        assert [("initContainers" in each["spec"]["template"]["spec"]) for each in made.objects[:2]] == [
            False,
            True,
        ]

    def test_values_come_out_as_kubernetes_reads_them(self, inject: Inject) -> None:
        text = deployment().replace(
            "name: vision",
            "name: vision\n  annotations: {a: 2026-01-01, b: 'on', c: '1', d: 2026-01-01T00:00:00Z, e: é}",
            1,
        )
        out = inject(text).text
        for line in ("a: 2026-01-01\n", "b: 'on'\n", "c: '1'\n", "d: 2026-01-01T00:00:00Z\n", "e: é\n"):
            assert line in out

    def test_what_an_anchor_shares_is_changed_in_one_place_only(self, inject: Inject) -> None:
        text = (
            "kind: Deployment\nmetadata: {name: v}\nspec: {template: {spec: {containers: ["
            "{name: triton, image: 't:24.01', args: [tritonserver], volumeMounts: &m [{name: a, mountPath: /a}]}, "
            "{name: b, image: b, volumeMounts: *m}]}}}"
        )
        made = inject(text)
        assert len(made.triton["volumeMounts"]) == 2
        assert made.pod["containers"][1]["volumeMounts"] == [{"name": "a", "mountPath": "/a"}]

    @pytest.mark.full
    def test_it_runs_in_a_pipe(self) -> None:
        command = [sys.executable, "-m", "sidecar", "inject"]
        ended = subprocess.run(
            command, input=deployment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "multimodal-sidecar" in ended.stdout


class TestTheFlagForSharedMemory:
    @pytest.mark.parametrize(
        ("image", "flags", "expected"),
        [
            ("tritonserver:26.05-py3", [], True),
            ("tritonserver:27.01-trtllm-python-py3", [], True),
            ("tritonserver:26.04-py3", [], False),
            ("tritonserver:24.10-py3", ["--client-shm", "yes"], True),
            ("tritonserver:26.06-py3", ["--client-shm", "no"], False),
        ],
    )
    def test_it_goes_by_the_release(
        self, inject: Inject, image: str, flags: list[str], expected: bool
    ) -> None:
        made = inject(deployment(container=f"image: '{image}'"), *flags)
        assert ("--allow-client-shm=true" in made.triton["args"], made.told) == (expected, "")

    def test_a_release_that_cannot_be_read_is_told(self, inject: Inject) -> None:
        made = inject(deployment(container="image: mine/tritonserver:latest"))
        assert "--client-shm yes" in made.told
        assert "deployment/vision" in made.told
        assert len(made.triton["args"]) == 2

    def test_one_that_is_there_stays(self, inject: Inject) -> None:
        made = inject(deployment(container="args: [tritonserver, --allow-client-shm=false]"))
        assert made.triton["args"] == ["tritonserver", "--allow-client-shm=false"]

    def test_a_shell_line_is_not_touched_but_told(self, inject: Inject) -> None:
        made = inject(deployment(container="{command: [bash, -c], args: ['tritonserver --x']}"))
        assert made.triton["args"] == ["tritonserver --x"]
        assert "add --allow-client-shm=true to tritonserver yourself" in made.told


class TestSharedMemoryThatIsThere:
    def test_a_volume_of_memory_at_dev_shm_is_shared_and_counted(self, inject: Inject) -> None:
        shm = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}
        made = inject(
            deployment(container="volumeMounts: [{name: dshm, mountPath: /dev/shm}]", volumes=[shm]),
            "--heap",
            "1Gi",
        )
        assert {"name": "dshm", "mountPath": "/dev/shm"} in made.sidecar["volumeMounts"]
        assert made.triton["volumeMounts"] == [{"name": "dshm", "mountPath": "/dev/shm"}]
        assert SHM not in made.volumes
        assert made.sidecar["resources"]["limits"]["memory"] == "5120Mi"

    def test_one_without_a_size_is_told(self, inject: Inject) -> None:
        shm = {"name": "dshm", "emptyDir": {"medium": "Memory"}}
        made = inject(
            deployment(container="volumeMounts: [{name: dshm, mountPath: /dev/shm}]", volumes=[shm])
        )
        assert "has no sizeLimit" in made.told

    def test_one_of_another_kind_is_refused(self, inject: Inject) -> None:
        shm = {"name": "host", "hostPath": {"path": "/dev/shm"}}
        told = inject.refused(
            deployment(container="volumeMounts: [{name: host, mountPath: /dev/shm}]", volumes=[shm])
        )
        assert "host at /dev/shm, which is no emptyDir of medium Memory" in told


class TestRefusals:
    @pytest.mark.parametrize(
        "text", ["", "kind: Service\n", "kind: Deployment\nspec: {}\n", "[1, 2]", "text"]
    )
    def test_a_stream_with_nothing_to_do(self, inject: Inject, text: str) -> None:
        assert "nothing to put the sidecar beside" in inject.refused(text)

    def test_a_container_that_is_not_there_is_told_with_what_there_is(self, inject: Inject) -> None:
        told = inject.refused(deployment(), "--container", "server")
        assert "deployment/vision" in told
        assert "a container named server" in told

    def test_two_model_servers(self, inject: Inject) -> None:
        two = [{"name": name, "image": "tritonserver:26.06"} for name in ("a", "b")]
        assert "a, b; say which by --container" in inject.refused(deployment(containers=two))
        assert inject(deployment(containers=two), "--container", "b").status == 0

    def test_a_port_that_is_taken(self, inject: Inject) -> None:
        told = inject.refused(deployment(container="ports: [{containerPort: 9400}]"))
        assert "triton has the port 9400 already" in told

    def test_windows(self, inject: Inject) -> None:
        assert "for Windows" in inject.refused(deployment(os={"name": "windows"}))

    @pytest.mark.parametrize("text", ["{", "a: b: c", "--- !!python/object:os.system {}", "kind: \x00"])
    def test_what_is_no_yaml(self, inject: Inject, text: str) -> None:
        assert "standard input is not valid YAML" in inject.refused(text)

    @pytest.mark.parametrize("broken", ["containers: {a: 1}", "containers: [tritonserver]", "containers: 3"])
    def test_what_kubernetes_would_not_take(self, inject: Inject, broken: str) -> None:
        text = f"kind: Deployment\nmetadata: {{name: v}}\nspec: {{template: {{spec: {{{broken}}}}}}}\n"
        assert "is no Deployment that Kubernetes would take" in inject.refused(text)

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--shm", "2 GB"], "--shm is '2 GB'"),
            (["--heap", "-1Gi"], "--heap"),
            (["--recipe-file", "clip"], "write NAME/FILE"),
            (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        ],
    )
    def test_flags_that_say_nothing(self, inject: Inject, flags: list[str], words: str) -> None:
        flags = [f"{flags[0]}={flags[1]}"]
        assert words in inject.refused(deployment(), *flags)

    def test_settings_that_the_server_would_not_take(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("sever: {}")
        assert "unknown key `sever`" in inject.refused(deployment(), "--config", str(tmp_path / "s.yaml"))

    def test_a_recipe_that_is_not_there(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("models: {a: {recipe: nowhere}}")
        told = inject.refused(deployment(), "--config", str(tmp_path / "s.yaml"))
        assert "none of preprocessor_config.json" in told

    def test_a_recipe_that_no_config_map_can_hold(self, inject: Inject, settings: Path) -> None:
        settings.write_text("models: {a/b: {recipe: clip}}")
        assert "`upstream`" in inject.refused(deployment(), "--config", str(settings))

    def test_settings_that_listen_elsewhere_than_probes_look(self, inject: Inject, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("server: {listen: ['0.0.0.0:1']}")
        told = inject.refused(deployment(), "--config", str(tmp_path / "s.yaml"))
        assert "without an address at port 50051" in told

    def test_two_tritons_at_two_ports_have_no_settings_in_common(self, inject: Inject) -> None:
        other = deployment(container="args: [tritonserver, --grpc-port=9001]").replace(
            "name: vision", "name: other", 1
        )
        assert "one ConfigMap is for both" in inject.refused(f"{deployment()}---\n{other}")
