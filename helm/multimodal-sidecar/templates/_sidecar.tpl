{{- /* The sidecar's container and what it needs of a pod: the one template behind every way to deploy it. Other charts
       include these, given the subchart's context: include "multimodal-sidecar.initContainers" (index .Subcharts
       "multimodal-sidecar"). */ -}}

{{- define "multimodal-sidecar.isNative" -}}
{{- if and .Values.sidecar.native (ne .Values.mode "pool") }}true{{ end }}
{{- end }}

{{- /* List items for a pod's initContainers, where it is native; put them first. */ -}}
{{- define "multimodal-sidecar.initContainers" -}}
{{- if include "multimodal-sidecar.isNative" . }}{{ list (include "multimodal-sidecar.container" . | fromYaml) | toYaml }}{{ end }}
{{- end }}

{{- /* List items for a pod's containers, where it is not. */ -}}
{{- define "multimodal-sidecar.containers" -}}
{{- if not (include "multimodal-sidecar.isNative" .) }}{{ list (include "multimodal-sidecar.container" . | fromYaml) | toYaml }}{{ end }}
{{- end }}

{{- define "multimodal-sidecar.container" -}}
{{- include "multimodal-sidecar.check" . }}
{{- with .Values.sidecar -}}
name: {{ .name }}
image: {{ include "multimodal-sidecar.image" (list .image $.Chart.AppVersion) }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- if include "multimodal-sidecar.isNative" $ }}
restartPolicy: Always
{{- end }}
{{- /* The image's own entry point stays: an init that reaps orphans and hands signals on. */}}
args: {{- concat (list "serve" "--config" "/etc/sidecar/config.yaml") .extraArgs | toYaml | nindent 2 }}
{{- with .extraEnv }}
env: {{- include "multimodal-sidecar.laid" (list "name" .) | fromJsonArray | toYaml | nindent 2 }}
{{- end }}
{{- with .extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: sidecar-grpc, containerPort: {{ .ports.grpc }}, protocol: TCP}
  - {name: sidecar-metrics, containerPort: {{ .ports.metrics }}, protocol: TCP}
resources: {{- toYaml .resources | nindent 2 }}
securityContext: {{- toYaml .securityContext | nindent 2 }}
startupProbe: {{- include "multimodal-sidecar.probe" (list $ .probes.startup "" (dict "periodSeconds" 2 "timeoutSeconds" 2 "failureThreshold" 60)) | nindent 2 }}
readinessProbe: {{- include "multimodal-sidecar.probe" (list $ .probes.readiness "multimodal.v1.Preprocessor" (dict "periodSeconds" 5 "timeoutSeconds" 3 "failureThreshold" 2)) | nindent 2 }}
livenessProbe: {{- include "multimodal-sidecar.probe" (list $ .probes.liveness "" (dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6)) | nindent 2 }}
lifecycle:
  preStop: {{- include "multimodal-sidecar.preStop" $ | nindent 4 }}
volumeMounts: {{- include "multimodal-sidecar.laid" (list "mountPath" (include "multimodal-sidecar.mounts" $ | fromYamlArray) .extraVolumeMounts) | fromJsonArray | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{- define "multimodal-sidecar.mounts" -}}
- {name: multimodal-sidecar-config, mountPath: /etc/sidecar, readOnly: true}
- {name: multimodal-sidecar-tmp, mountPath: /tmp}
- {name: multimodal-sidecar-shm, mountPath: /dev/shm}
{{- end }}

{{- /* List items for the volumeMounts of the model server's container. */ -}}
{{- define "multimodal-sidecar.modelServerMounts" -}}
- {name: multimodal-sidecar-shm, mountPath: /dev/shm}
{{- end }}

{{- /* The preStop hook of the model server's container: it stays while the sidecar finishes what is under way. */ -}}
{{- define "multimodal-sidecar.modelServerPreStop" -}}
sleep: {seconds: {{ include "multimodal-sidecar.modelServerWaits" . }}}
{{- end }}

{{- /* A native sidecar is told to stop only after the model server has gone, too late to finish anything. So it is told
       beforehand to refuse what is new (SIGUSR1), by its hook, which runs as soon as the pod is to go. One that is not
       native is told to stop when its hook has ended, while the model server waits in its own. */ -}}
{{- define "multimodal-sidecar.preStop" -}}
{{- if include "multimodal-sidecar.isNative" . -}}
exec: {command: [sh, -c, "sleep {{ .Values.drain.endpointsSeconds }}; kill -USR1 1"]}
{{- else -}}
sleep: {seconds: {{ .Values.drain.endpointsSeconds }}}
{{- end }}
{{- end }}

{{- /* A gRPC health probe: a list of the context, what the values lay over it, the service's name and its times. */ -}}
{{- define "multimodal-sidecar.probe" -}}
{{- $context := index . 0 }}{{ $given := index . 1 }}{{ $service := index . 2 }}{{ $times := index . 3 }}
{{- $grpc := dict "port" (int $context.Values.sidecar.ports.grpc) }}
{{- if $service }}{{ $_ := set $grpc "service" $service }}{{ end }}
{{- if not (or (hasKey $given "exec") (hasKey $given "httpGet") (hasKey $given "tcpSocket")) }}{{ $_ := set $times "grpc" $grpc }}{{ end }}
{{- mergeOverwrite $times (deepCopy $given) | toYaml }}
{{- end }}

{{- /* List items for a pod's volumes. */ -}}
{{- define "multimodal-sidecar.volumes" -}}
- name: multimodal-sidecar-config
  configMap:
    name: {{ include "multimodal-sidecar.configMap" . }}
{{- if not .Values.existingConfigMap }}
    items:
      - {key: config.yaml, path: config.yaml}
{{- range $recipe, $files := .Values.recipes }}{{ range $file, $_text := $files }}
      - {key: recipes.{{ $recipe }}.{{ $file }}, path: recipes/{{ $recipe }}/{{ $file }}}
{{- end }}{{ end }}
{{- end }}
- name: multimodal-sidecar-tmp
  emptyDir: {sizeLimit: {{ .Values.sidecar.tmpSize }}}
- name: multimodal-sidecar-shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.shm.size }}}
{{- end }}

{{- /* For the template's annotations: changes with whatever its settings need a restart for. */ -}}
{{- define "multimodal-sidecar.podAnnotations" -}}
multimodal-sidecar/restart-for: {{ include "multimodal-sidecar.restartChecksum" . }}
{{- end }}
