"""What the chart makes of values, as Helm's own engine renders it, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sidecar import readings
from sidecar.cli.main import run
from sidecar.edge.server import SERVICE, ServerConfig
from sidecar.following import LIVE
from sidecar.media import Modality
from sidecar.observe.metrics import Metrics, MetricsConfig
from sidecar.settings import Settings, load_settings
from sidecar.stages.admit.gate import GateConfig
from sidecar.stages.admit.lanes import Lanes
from tests.helm.rendering import CHART, EXAMPLES, Rendered, example, refusal

MODES = ("bundle", "pool", "inject")
RESOURCES = {"requests": {"cpu": 2, "memory": "8Gi"}, "limits": {"cpu": 2, "memory": "8Gi"}}
KEDA = {"kind": "keda", "keda": {"prometheus": "http://prometheus:9090"}}


def said(part: str) -> dict[str, Any]:
    """A part of the settings with a value for one key, which the chart does not have of itself."""
    if part == "triton":
        return {"address": "elsewhere:8001"}
    own, defaults = Rendered({}).settings.get(part, {}), getattr(Settings(), part)
    values = {each.name: getattr(defaults, each.name) for each in fields(defaults) if each.name not in own}
    key = next(key for key, value in values.items() if isinstance(value, (int, float, str)))
    return {key: values[key]}


class TestSettings:
    @pytest.mark.parametrize("name", EXAMPLES)
    def test_the_servers_own_loader_takes_what_is_mounted(self, name: str, tmp_path: Path) -> None:
        made = Rendered(example(name))
        file = made.mounted(tmp_path)
        assert load_settings(file, {}).arena.access == "group"
        assert run(["serve", "--check", "--config", str(file)], {}) == 0

    @pytest.mark.parametrize(
        ("values", "address"),
        [
            ({}, "127.0.0.1:8001"),
            ({"triton": {"ports": {"grpc": 9001}}}, "127.0.0.1:9001"),
            ({"mode": "pool", "modelServer": "triton.models:8001"}, "triton.models:8001"),
            ({"config": {"triton": {"address": "unix:/run/t"}}}, "unix:/run/t"),
        ],
    )
    def test_the_model_server_is_beside_or_where_the_values_say(
        self, values: dict[str, Any], address: str
    ) -> None:
        assert Rendered(values).settings["triton"] == {"address": address}

    def test_a_pool_without_a_model_server_gives_tensors_back(self) -> None:
        made = Rendered({"mode": "pool"})
        assert "triton" not in made.settings
        assert "tensors are given back to callers" in made.notes

    def test_numbers_stay_what_they_are(self, tmp_path: Path) -> None:
        made = Rendered({"config": {"arena": {"bytes": 1 << 30}, "server": {"drain_s": 0.5}}})
        assert "bytes: 1073741824\n" in made.mounted_config["data"]["config.yaml"]
        assert load_settings(made.mounted(tmp_path), {}).server.drain_s == 0.5

    def test_a_recipe_is_mounted_and_serves_the_model_of_its_name(self, tmp_path: Path) -> None:
        made = Rendered(example("bundle"))
        recipe = load_settings(made.mounted(tmp_path), {}).models["clip"].recipe
        assert recipe is not None
        assert json.loads((recipe / "preprocessor_config.json").read_text())["image_processor_type"]

    def test_what_is_followed_while_it_runs_rolls_no_pods_and_all_else_does(self) -> None:
        def digest(config: dict[str, Any], **values: Any) -> str:
            found: str = Rendered({"config": config, **values}).template["metadata"]["annotations"][
                "multimodal-sidecar/restart-for"
            ]
            return found

        parts: dict[str, dict[str, Any]] = {
            "formats": {"deny": ["webp"]},
            "limits": {"items": 2},
            "models": {"m": {}},
            "threads": {"image": 2},
            "verdict": {"window_s": 5},
            "workers": {"processes": 2},
        }
        assert parts.keys() == {key.partition(".")[0] for key in LIVE}
        bare = digest({})
        assert all(digest({part: value}) == bare for part, value in parts.items())
        assert digest({}, recipes={"clip": {"preprocessor_config.json": "{}"}}) == bare
        others = {each.name for each in fields(Settings)} - parts.keys()
        some = {part: said(part) for part in others} | {"workers": {"start_s": 2}}
        assert {part for part, value in some.items() if digest({part: value}) == bare} == set()
        assert digest({"workers": {"processes": 0}}) != bare

    def test_the_file_is_mounted_in_a_folder_so_that_changes_reach_it(self) -> None:
        (mount,) = (
            each for each in Rendered({}).sidecar["volumeMounts"] if each["mountPath"] == "/etc/sidecar"
        )
        assert "subPath" not in mount

    def test_somebody_elses_config_map_is_taken_whole(self) -> None:
        made = Rendered({"existingConfigMap": "mine"})
        assert not made.of("ConfigMap")
        assert made.volumes["multimodal-sidecar-config"]["configMap"] == {"name": "mine"}

    def test_what_tune_writes_is_taken(self) -> None:
        assert Rendered({"config": {"threads": {"image": 3, "audio": 1}}}).settings["threads"] == {
            "image": 3,
            "audio": 1,
        }


class TestContainer:
    def test_ports_and_health_are_the_servers(self) -> None:
        made = Rendered({}).sidecar
        grpc, metrics = (each["containerPort"] for each in made["ports"])
        assert ServerConfig().listen[0].endswith(f":{grpc}")
        assert MetricsConfig().listen.endswith(f":{metrics}")
        assert made["readinessProbe"]["grpc"] == {"port": grpc, "service": SERVICE}
        # Before the model server is up it cannot be ready, and the model server is not started before it has.
        assert made["startupProbe"]["grpc"] == made["livenessProbe"]["grpc"] == {"port": grpc}

    def test_a_probe_of_another_kind_takes_the_place_of_grpc(self) -> None:
        made = Rendered({"sidecar": {"probes": {"liveness": {"tcpSocket": {"port": 50051}}}}}).sidecar
        assert made["livenessProbe"] == {
            "tcpSocket": {"port": 50051}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
        }  # fmt: skip

    def test_it_may_do_next_to_nothing(self) -> None:
        made = Rendered({})
        context = made.sidecar["securityContext"]
        assert (context["runAsUser"], context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (
            10001,
            True,
            True,
        )
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert made.pod["automountServiceAccountToken"] is False
        assert made.pod["enableServiceLinks"] is False
        assert made.one("ServiceAccount")["automountServiceAccountToken"] is False
        assert {"name": "multimodal-sidecar-tmp", "mountPath": "/tmp"} in made.sidecar["volumeMounts"]

    @pytest.mark.parametrize("who", ["sidecar", "triton"])
    def test_a_digest_beats_a_tag(self, who: str) -> None:
        digest = f"sha256:{'0' * 64}"
        made = Rendered({who: {"image": {"repository": "r/x", "tag": "1", "digest": digest}}})
        name = "multimodal-sidecar" if who == "sidecar" else who
        assert made.containers[name]["image"] == f"r/x@{digest}"

    def test_the_tag_is_the_charts_version_unless_told(self) -> None:
        assert Rendered({}).sidecar["image"] == "multimodal-sidecar:0.1.0"
        assert Rendered({"sidecar": {"image": {"tag": "2"}}}).sidecar["image"] == "multimodal-sidecar:2"

    def test_what_is_given_twice_is_there_once_and_the_later_wins(self) -> None:
        made = Rendered(
            {
                "sidecar": {
                    "extraEnv": [
                        {"name": "A", "value": "1"},
                        {"name": "B", "value": "2"},
                        {"name": "A", "value": "3"},
                    ],
                    "extraVolumeMounts": [{"name": "big", "mountPath": "/tmp"}],
                },
                "pod": {
                    "extraVolumes": [
                        {"name": "multimodal-sidecar-tmp", "emptyDir": {}},
                        {"name": "big", "emptyDir": {}},
                    ]
                },
            }
        )
        assert made.sidecar["env"] == [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]
        assert [each["name"] for each in made.sidecar["volumeMounts"] if each["mountPath"] == "/tmp"] == [
            "big"
        ]
        assert made.volumes["multimodal-sidecar-tmp"] == {"name": "multimodal-sidecar-tmp", "emptyDir": {}}


class TestBesideTriton:
    def test_it_is_a_native_sidecar_before_all_others(self) -> None:
        made = Rendered({"pod": {"extraInitContainers": [{"name": "fetch", "image": "x"}]}})
        assert [each["name"] for each in made.pod["initContainers"]] == ["multimodal-sidecar", "fetch"]
        assert made.sidecar["restartPolicy"] == "Always"
        assert [each["name"] for each in made.pod["containers"]] == ["triton"]

    def test_both_share_one_memory_and_a_group(self) -> None:
        made = Rendered({"shm": {"size": "512Mi"}})
        mount = {"name": "multimodal-sidecar-shm", "mountPath": "/dev/shm"}
        assert all(mount in each["volumeMounts"] for each in made.containers.values())
        assert made.volumes[mount["name"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}
        assert made.pod["securityContext"]["supplementalGroups"] == [
            made.sidecar["securityContext"]["runAsGroup"]
        ]

    def test_triton_is_told_that_it_may_share(self) -> None:
        assert "--allow-client-shm=true" in Rendered({}).containers["triton"]["args"]
        without = Rendered({"triton": {"clientSharedMemory": False}}).containers["triton"]["args"]
        assert not any("client-shm" in each for each in without)

    def test_gpus_are_asked_for_and_their_taint_put_up_with(self) -> None:
        made = Rendered({"triton": {"gpus": 2}})
        assert made.containers["triton"]["resources"]["limits"]["nvidia.com/gpu"] == 2
        assert made.pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        none = Rendered({"triton": {"gpus": 0}})
        assert "nvidia.com/gpu" not in none.containers["triton"]["resources"]["limits"]
        assert "tolerations" not in none.pod

    @pytest.mark.parametrize("native", [True, False])
    def test_stopping_leaves_time_for_what_is_under_way(self, native: bool) -> None:
        values = {"sidecar": {"native": native}, "drain": {"endpointsSeconds": 4, "modelServerSeconds": 9}}
        made = Rendered(values | {"config": {"server": {"drain_s": 10.2}}})
        waits = made.containers["triton"]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert waits == 4 + 11
        assert made.pod["terminationGracePeriodSeconds"] == waits + 9 + 5
        hook = made.sidecar["lifecycle"]["preStop"]
        assert hook == (
            {"exec": {"command": ["sh", "-c", "sleep 4; kill -USR1 1"]}}
            if native
            else {"sleep": {"seconds": 4}}
        )

    def test_exclusive_cpus_pin_workers(self) -> None:
        made = Rendered({"sidecar": {"exclusiveCpus": True}, "triton": {"resources": RESOURCES}})
        assert made.settings["workers"] == {"pin": True}
        for each in made.containers.values():
            requests, limits = each["resources"]["requests"], each["resources"]["limits"]
            assert all(str(limits[kind]) == str(requests[kind]) for kind in ("cpu", "memory"))

    def test_a_part_of_a_cpu_is_told_of(self) -> None:
        cpu = {"cpu": "1500m", "memory": "3Gi"}
        made = Rendered({"sidecar": {"resources": {"requests": cpu, "limits": cpu}}})
        assert "1500m, no whole number" in made.notes
        assert "no whole number" not in Rendered({}).notes


class TestAround:
    @pytest.mark.parametrize("name", ["bundle", "pool", "options"])
    def test_all_that_selects_pods_selects_these(self, name: str) -> None:
        made = Rendered(example(name))
        labels = made.template["metadata"]["labels"]
        selectors = [
            made.one("Deployment")["spec"]["selector"]["matchLabels"],
            made.one("Service")["spec"]["selector"],
        ]
        for kind, key in (
            ("PodDisruptionBudget", "selector"),
            ("NetworkPolicy", "podSelector"),
            ("PodMonitor", "selector"),
        ):
            selectors += [each["spec"][key]["matchLabels"] for each in made.of(kind)]
        assert all(selector.items() <= labels.items() for selector in selectors)

    def test_the_service_leads_to_a_number(self) -> None:
        (port,) = Rendered({}).one("Service")["spec"]["ports"]
        assert port["targetPort"] == 50051

    def test_monitors_name_ports_that_there_are(self) -> None:
        made = Rendered({"monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "kps"}}}})
        ports = {port["name"] for each in made.containers.values() for port in each["ports"]}
        monitor = made.one("PodMonitor")
        assert (
            {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
            == {"sidecar-metrics", "triton-metrics"}
            <= ports
        )
        assert monitor["metadata"]["labels"]["release"] == "kps"
        pool = Rendered(example("pool"))
        service_ports = {each["name"] for each in pool.one("Service")["spec"]["ports"]}
        assert {each["port"] for each in pool.one("ServiceMonitor")["spec"]["endpoints"]} <= service_ports

    def test_a_pod_beside_a_gpu_reaches_nothing_but_names(self) -> None:
        egress = Rendered({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]["egress"]
        assert [[port["port"] for port in each["ports"]] for each in egress] == [[53, 53]]
        nothing = Rendered({"networkPolicy": {"enabled": True, "dns": False}}).one("NetworkPolicy")["spec"]
        assert (nothing["egress"], nothing["policyTypes"]) == ([], ["Ingress", "Egress"])

    def test_a_pool_reaches_its_model_server(self) -> None:
        egress = Rendered(example("pool")).one("NetworkPolicy")["spec"]["egress"]
        assert [each["ports"][0]["port"] for each in egress] == [53, 8001]

    @pytest.mark.parametrize("kind", ["hpa", "keda"])
    def test_where_pods_are_counted_for_us_we_count_none(self, kind: str) -> None:
        assert "replicas" not in Rendered({"autoscaling": KEDA | {"kind": kind}}).one("Deployment")["spec"]
        assert Rendered({"replicas": 3}).one("Deployment")["spec"]["replicas"] == 3

    def test_keda_goes_by_how_long_work_waits(self) -> None:
        cpu = {"cpu": "4", "memory": "3Gi"}
        made = Rendered(
            {"mode": "pool", "autoscaling": KEDA, "sidecar": {"resources": {"limits": cpu, "requests": cpu}}}
        )
        queued, busy = made.one("ScaledObject")["spec"]["triggers"]
        assert (queued["metadata"]["threshold"], busy["metadata"]["threshold"]) == ("2", "3")
        assert 'namespace="gpu",pod=~"demo-multimodal-sidecar-.+"' in queued["metadata"]["query"]

    def test_an_hpa_goes_by_the_same(self) -> None:
        (queued, busy) = Rendered({"mode": "pool", "autoscaling": {"kind": "hpa"}}).one(
            "HorizontalPodAutoscaler"
        )["spec"]["metrics"]
        assert queued["pods"]["target"] == {"type": "AverageValue", "averageValue": "1000m"}
        assert busy["containerResource"]["container"] == "multimodal-sidecar"
        assert busy["containerResource"]["target"]["averageValue"] == "1500m"

    def test_it_scales_by_metrics_that_the_server_has(self) -> None:
        lanes = Lanes(GateConfig(), 1, 1)
        lanes._begun_total[Modality.IMAGE, 0] = 1  # as after the start, which lets a calibrating job in
        watched = {each.name for each in readings.lane_readings(lanes)}
        counted = {each.name for each in Metrics().registry.collect()}
        made = Rendered({"mode": "pool", "autoscaling": {"kind": "hpa"}}).one("HorizontalPodAutoscaler")
        assert made["spec"]["metrics"][0]["pods"]["metric"]["name"] == "sidecar_lane_queued_cpu_seconds"
        assert "sidecar_lane_queued_cpu_seconds" in watched
        assert "sidecar_worker_cpu_seconds" in counted

    def test_rules_and_dashboards_come_out_as_they_are_written(self, tmp_path: Path) -> None:
        chart = tmp_path / "multimodal-sidecar"
        shutil.copytree(CHART, chart)
        for name in ("rules", "dashboards"):
            shutil.rmtree(chart / name, ignore_errors=True)
            (chart / name).mkdir()
        rule = {
            "alert": "A",
            "expr": "up == 0",
            "annotations": {"summary": "{{ $labels.pod }} {{ $value | humanize }}"},
        }
        (chart / "rules/own.yaml").write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
        (chart / "dashboards/own.json").write_text('{"title": "{{ no template }}",\n "panels": []}')
        values = {
            "monitoring": {
                "rules": {"enabled": True},
                "dashboards": {"enabled": True, "labels": {"extra": "1"}},
            }
        }
        made = Rendered(values, chart=chart)
        assert made.one("PrometheusRule")["spec"]["groups"][0]["rules"] == [rule]
        assert made.one("PrometheusRule")["metadata"]["name"] == "demo-multimodal-sidecar-own"
        (board,) = (each for each in made.of("ConfigMap") if "dashboard" in each["metadata"]["name"])
        assert json.loads(board["data"]["own.json"])["title"] == "{{ no template }}"
        assert board["metadata"]["labels"]["grafana_dashboard"] == board["metadata"]["labels"]["extra"] == "1"

    def test_labels_of_ones_own_never_take_the_place_of_those_that_select(self) -> None:
        own = {"app.kubernetes.io/name": "x", "team": "vision"}
        made = Rendered({"commonLabels": own, "pod": {"labels": own}})
        for labels in (made.template["metadata"]["labels"], made.one("Deployment")["metadata"]["labels"]):
            assert (labels["app.kubernetes.io/name"], labels["team"]) == ("multimodal-sidecar", "vision")

    def test_long_names_are_cut_to_what_kubernetes_takes(self) -> None:
        made = Rendered(
            {"fullnameOverride": "n" * 80} | {"monitoring": {"rules": {"enabled": True}}}, name="r" * 53
        )
        assert all(len(each["metadata"]["name"]) <= 63 for each in made.objects)

    def test_disabled_is_nothing(self) -> None:
        assert Rendered(example("options") | {"enabled": False}).objects == []

    def test_spreading_pods_needs_no_words_about_which(self) -> None:
        (spread,) = Rendered(example("options")).pod["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "demo"


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (
                {"sidecar": {"resources": {"limits": {"cpu": 2, "memory": "2Gi"}}}},
                "less than sidecar.heap (2Gi) and shm.size (1Gi)",
            ),
            ({"shm": {"size": "1.5Gi"}}, "pages of /dev/shm count against it"),
            (
                {"sidecar": {"resources": {"limits": {"cpu": None}}}},
                "sidecar.resources.limits.cpu is missing",
            ),
            (
                {"sidecar": {"resources": {"limits": {"memory": "3e9"}}}},
                "sidecar.resources.limits.memory is 3e9",
            ),
            (
                {"sidecar": {"exclusiveCpus": True}},
                "triton.resources has a request of 2 cpu and a limit of none",
            ),
            (
                {
                    "mode": "pool",
                    "sidecar": {
                        "exclusiveCpus": True,
                        "resources": {"requests": {"cpu": "2500m"}, "limits": {"cpu": "2500m"}},
                    },
                },
                "whole CPUs only",
            ),
            (
                {
                    "mode": "pool",
                    "sidecar": {"exclusiveCpus": True, "resources": {"requests": {"memory": "1Gi"}}},
                },
                "a request of 1Gi memory and a limit of 3Gi",
            ),
            ({"config": {"server": {"listen": ["0.0.0.0:1"]}}}, "without an address at port 50051"),
            ({"config": {"metrics": {"listen": "0.0.0.0:1"}}}, "make them one"),
            ({"config": {"models": {"a": {"recipe": "recipes/b"}}}}, "there is no recipes.b"),
            (
                {"existingConfigMap": "x", "config": {"threads": {"image": 1}}},
                "settings come from the one or the other",
            ),
            (
                {"drain": {"terminationGracePeriodSeconds": 30}},
                "drain.terminationGracePeriodSeconds is 30, and what is waited for takes 65",
            ),
            (
                {
                    "mode": "pool",
                    "monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}},
                },
                "counted twice",
            ),
            ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "is for mode: pool"),
            (
                {"mode": "inject", "monitoring": {"podMonitor": {"enabled": True}}},
                "monitoring.podMonitor.selector is empty",
            ),
            ({"mode": "inject", "autoscaling": {"kind": "hpa"}}, "the workload is yours to scale"),
            ({"autoscaling": {"kind": "keda"}}, "autoscaling.keda.prometheus is empty"),
            ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas is 9"),
        ],
    )
    def test_values_that_do_not_go_together(self, values: dict[str, Any], words: str) -> None:
        assert words in refusal(values)

    @pytest.mark.parametrize(
        ("values", "where"),
        [
            ({"sidecr": {}}, "sidecr"),
            ({"sidecar": {"image": {"tagg": "1"}}}, "tagg"),
            ({"mode": "daemonset"}, "/mode"),
            ({"sidecar": {"ports": {"grpc": 0}}}, "/sidecar/ports/grpc"),
            ({"sidecar": {"image": {"digest": "latest"}}}, "/sidecar/image/digest"),
            ({"shm": {"size": "lots"}}, "/shm/size"),
            ({"config": {"threads": {"imgae": 2}}}, "imgae"),
            ({"config": {"threads": {"image": -1}}}, "/config/threads/image"),
            ({"config": {"limits": {"items": 0}}}, "/config/limits/items"),
            ({"config": {"models": {"clip": {"mode": "rough"}}}}, "/config/models/clip/mode"),
            ({"recipes": {"a/b": {"x": "y"}}}, "a/b"),
            ({"monitoring": {"podMonitor": {"interval": 15}}}, "/monitoring/podMonitor/interval"),
        ],
    )
    def test_values_that_are_none(self, values: dict[str, Any], where: str) -> None:
        assert where in refusal(values)
