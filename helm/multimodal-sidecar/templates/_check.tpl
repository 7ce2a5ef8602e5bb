{{- /* What values must not be together. Each refusal names the keys, what they say and what to do. */ -}}

{{- define "multimodal-sidecar.check" -}}
{{- $sidecar := .Values.sidecar }}{{ $resources := $sidecar.resources }}
{{- $limits := default dict $resources.limits }}{{ $requests := default dict $resources.requests }}
{{- if not $limits.cpu }}{{ fail "sidecar.resources.limits.cpu is missing: the sidecar plans its threads by it, and would take the whole node for its own" }}{{ end }}
{{- if not $limits.memory }}{{ fail "sidecar.resources.limits.memory is missing: admission is bounded by it" }}{{ end }}
{{- $memory := include "multimodal-sidecar.bytes" $limits.memory }}
{{- if not $memory }}{{ fail (printf "sidecar.resources.limits.memory is %v: write bytes, or a number with Ki, Mi, Gi, k, M or G" $limits.memory) }}{{ end }}
{{- $heap := include "multimodal-sidecar.bytes" $sidecar.heap }}{{ $shm := include "multimodal-sidecar.bytes" .Values.shm.size }}
{{- if lt (int64 $memory) (add $heap $shm) }}
{{- fail (printf "sidecar.resources.limits.memory is %v, less than sidecar.heap (%v) and shm.size (%v) together: pages of /dev/shm count against it; raise the limit or lower one of them" $limits.memory $sidecar.heap .Values.shm.size) }}
{{- end }}
{{- $config := include "multimodal-sidecar.config" . | fromYaml }}
{{- $grpc := printf ":%d" (int $sidecar.ports.grpc) }}{{ $found := false }}
{{- range $config.server.listen }}{{ if hasSuffix $grpc . }}{{ $found = true }}{{ end }}{{ end }}
{{- if not $found }}{{ fail (printf "config.server.listen is %s, without an address at port %d: sidecar.ports.grpc is where probes and the Service look" (toJson $config.server.listen) (int $sidecar.ports.grpc)) }}{{ end }}
{{- if and $config.metrics.listen (not (hasSuffix (printf ":%d" (int $sidecar.ports.metrics)) $config.metrics.listen)) }}{{ fail (printf "config.metrics.listen is %s, and sidecar.ports.metrics %d: make them one" $config.metrics.listen (int $sidecar.ports.metrics)) }}{{ end }}
{{- if lt (include "multimodal-sidecar.grace" . | int) (include "multimodal-sidecar.leastGrace" . | int) }}
{{- fail (printf "drain.terminationGracePeriodSeconds is %d, and what is waited for takes %s: drain.endpointsSeconds, config.server.drain_s, drain.modelServerSeconds and 5; raise it, or make it 0" (int .Values.drain.terminationGracePeriodSeconds) (include "multimodal-sidecar.leastGrace" .)) }}
{{- end }}
{{- range $name, $model := $config.models }}
{{- if and $model.recipe (hasPrefix "recipes/" $model.recipe) (not $.Values.existingConfigMap) (not (hasKey $.Values.recipes (trimPrefix "recipes/" $model.recipe))) }}
{{- fail (printf "config.models.%s.recipe is %s, and there is no recipes.%s with its files" $name $model.recipe (trimPrefix "recipes/" $model.recipe)) }}
{{- end }}
{{- end }}
{{- if and .Values.existingConfigMap (or .Values.config .Values.recipes) }}{{ fail (printf "existingConfigMap is %s, and config or recipes are given too: settings come from the one or the other" .Values.existingConfigMap) }}{{ end }}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}{{ fail "monitoring.podMonitor and monitoring.serviceMonitor are both enabled: all would be counted twice" }}{{ end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (ne .Values.mode "pool") }}{{ fail "monitoring.serviceMonitor is for mode: pool; beside a model server enable monitoring.podMonitor" }}{{ end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.service.enabled) }}{{ fail "monitoring.serviceMonitor is enabled, and there is no Service: enable service, or monitoring.podMonitor" }}{{ end }}
{{- if eq .Values.mode "inject" }}
{{- if and .Values.monitoring.podMonitor.enabled (not .Values.monitoring.podMonitor.selector) }}{{ fail "monitoring.podMonitor.selector is empty: in mode: inject the pods are yours, so say which" }}{{ end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.selector) }}{{ fail "networkPolicy.selector is empty: in mode: inject the pods are yours, so say which" }}{{ end }}
{{- if ne .Values.autoscaling.kind "none" }}{{ fail (printf "autoscaling.kind is %s: in mode: inject the workload is yours to scale" .Values.autoscaling.kind) }}{{ end }}
{{- if .Values.podDisruptionBudget.enabled }}{{ fail "podDisruptionBudget is enabled: in mode: inject the workload is yours to protect" }}{{ end }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}{{ fail (printf "autoscaling.minReplicas is %d, more than maxReplicas, which is %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}{{ end }}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.keda.prometheus) }}{{ fail "autoscaling.keda.prometheus is empty: say where Prometheus answers, such as http://prometheus.monitoring:9090" }}{{ end }}
{{- if $sidecar.exclusiveCpus }}
{{- if mod (include "multimodal-sidecar.millicpus" $limits.cpu | int64) 1000 }}{{ fail (printf "sidecar.exclusiveCpus is true and sidecar.resources.limits.cpu %v: the kubelet gives whole CPUs only" $limits.cpu) }}{{ end }}
{{- include "multimodal-sidecar.checkGuaranteed" (list "sidecar" $resources) }}
{{- if eq .Values.mode "bundle" }}{{ include "multimodal-sidecar.checkGuaranteed" (list "triton" .Values.triton.resources) }}{{ end }}
{{- range .Values.pod.extraContainers }}{{ include "multimodal-sidecar.checkGuaranteed" (list (printf "pod.extraContainers %s" .name) (default dict .resources)) }}{{ end }}
{{- range .Values.pod.extraInitContainers }}{{ include "multimodal-sidecar.checkGuaranteed" (list (printf "pod.extraInitContainers %s" .name) (default dict .resources)) }}{{ end }}
{{- end }}
{{- end }}

{{- define "multimodal-sidecar.checkGuaranteed" -}}
{{- $who := index . 0 }}{{ $limits := default dict (index . 1).limits }}{{ $requests := default dict (index . 1).requests }}
{{- range list "cpu" "memory" }}
{{- $limit := toString (default "none" (get $limits .)) }}{{ $request := toString (default $limit (get $requests .)) }}
{{- if or (eq $limit "none") (ne $limit $request) }}{{ fail (printf "sidecar.exclusiveCpus is true, and %s.resources has a request of %s %s and a limit of %s: a pod is Guaranteed where they are equal in every container" $who $request . $limit) }}{{ end }}
{{- end }}
{{- end }}
