{{- /* Triton's container of `mode: bundle`. */ -}}

{{- define "multimodal-sidecar.triton" -}}
{{- with .Values.triton -}}
name: triton
image: {{ include "multimodal-sidecar.image" (list .image "") }}
imagePullPolicy: {{ .image.pullPolicy }}
command: {{- toYaml .command | nindent 2 }}
args:
  - --model-repository={{ .modelRepository }}
  - --http-port={{ .ports.http }}
  - --grpc-port={{ .ports.grpc }}
  - --metrics-port={{ .ports.metrics }}
  {{- if .clientSharedMemory }}
  - --allow-client-shm=true
  {{- end }}
  {{- range .extraArgs }}
  - {{ . | quote }}
  {{- end }}
{{- with .extraEnv }}
env: {{- include "multimodal-sidecar.laid" (list "name" .) | fromJsonArray | toYaml | nindent 2 }}
{{- end }}
ports:
  - {name: triton-http, containerPort: {{ .ports.http }}, protocol: TCP}
  - {name: triton-grpc, containerPort: {{ .ports.grpc }}, protocol: TCP}
  - {name: triton-metrics, containerPort: {{ .ports.metrics }}, protocol: TCP}
resources: {{- include "multimodal-sidecar.tritonResources" . | nindent 2 }}
securityContext: {{- toYaml .securityContext | nindent 2 }}
startupProbe:
  httpGet: {path: /v2/health/ready, port: {{ .ports.http }}}
  periodSeconds: 5
  failureThreshold: {{ div (add .startSeconds 4) 5 }}
readinessProbe:
  httpGet: {path: /v2/health/ready, port: {{ .ports.http }}}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /v2/health/live, port: {{ .ports.http }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
lifecycle:
  preStop: {{- include "multimodal-sidecar.modelServerPreStop" $ | nindent 4 }}
{{- $models := ternary (list (dict "name" "models" "mountPath" .modelRepository "readOnly" true)) (list) (not (empty .modelVolume)) }}
volumeMounts: {{- include "multimodal-sidecar.laid" (list "mountPath" (include "multimodal-sidecar.modelServerMounts" $ | fromYamlArray) (list (dict "name" "triton-tmp" "mountPath" "/tmp")) $models .extraVolumeMounts) | fromJsonArray | toYaml | nindent 2 }}
{{- end }}
{{- end }}

{{- define "multimodal-sidecar.tritonResources" -}}
{{- $all := deepCopy .resources }}
{{- if .gpus }}
{{- $limits := default dict $all.limits }}{{ $_ := set $limits .gpuResource (int .gpus) }}{{ $_ := set $all "limits" $limits }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- define "multimodal-sidecar.tritonVolumes" -}}
- name: triton-tmp
  emptyDir: {}
{{- with .Values.triton.modelVolume }}
- {{- merge (dict "name" "models") . | toYaml | nindent 2 }}
{{- end }}
{{- end }}
