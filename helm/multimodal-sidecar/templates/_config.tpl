{{- /* The sidecar's settings: what the chart knows of the pod, and the values' `config` over it. */ -}}

{{- define "multimodal-sidecar.modelServer" -}}
{{- if .Values.modelServer }}{{ .Values.modelServer }}
{{- else if ne .Values.mode "pool" }}127.0.0.1:{{ .Values.triton.ports.grpc }}
{{- end }}
{{- end }}

{{- define "multimodal-sidecar.config" -}}
{{- $ports := .Values.sidecar.ports }}
{{- $own := dict
      "server" (dict "listen" (list (printf "0.0.0.0:%d" (int $ports.grpc))) "drain_s" 25)
      "metrics" (dict "listen" (printf "0.0.0.0:%d" (int $ports.metrics)))
      "log" (dict "format" "json")
      "arena" (dict "access" "group") }}
{{- with include "multimodal-sidecar.modelServer" . }}{{ $_ := set $own "triton" (dict "address" .) }}{{ end }}
{{- if .Values.sidecar.exclusiveCpus }}{{ $_ := set $own "workers" (dict "pin" true) }}{{ end }}
{{- $models := dict }}
{{- range $name, $_files := .Values.recipes }}{{ $_ := set $models $name (dict "recipe" (printf "recipes/%s" $name)) }}{{ end }}
{{- if $models }}{{ $_ := set $own "models" $models }}{{ end }}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- /* What the pods must be replaced for: all settings but those that are followed while it runs (sidecar/following.py),
and recipes' files, which are followed with `models`. */ -}}
{{- define "multimodal-sidecar.restartChecksum" -}}
{{- $config := include "multimodal-sidecar.config" . | fromYaml }}
{{- $config = omit $config "formats" "limits" "models" "threads" "verdict" }}
{{- with $config.workers }}
{{- $kept := omit . "processes" }}
{{- if and (hasKey . "processes") (eq (toString .processes) "0") }}{{ $_ := set $kept "processes" 0 }}{{ end }}
{{- $config = omit $config "workers" }}
{{- if $kept }}{{ $_ := set $config "workers" $kept }}{{ end }}
{{- end }}
{{- $config | toJson | sha256sum }}
{{- end }}

{{- define "multimodal-sidecar.drainSeconds" -}}
{{- (include "multimodal-sidecar.config" . | fromYaml).server.drain_s | ceil | int }}
{{- end }}

{{- /* How long the model server waits before it goes: callers hear of it, then what is under way is finished. */ -}}
{{- define "multimodal-sidecar.modelServerWaits" -}}
{{- add .Values.drain.endpointsSeconds (include "multimodal-sidecar.drainSeconds" .) }}
{{- end }}

{{- /* The pod's grace: all that is waited for one after the other, and 5 s for processes to end, out of the air. */ -}}
{{- define "multimodal-sidecar.leastGrace" -}}
{{- $server := ternary 0 (int .Values.drain.modelServerSeconds) (eq .Values.mode "pool") }}
{{- add (include "multimodal-sidecar.modelServerWaits" .) $server 5 }}
{{- end }}

{{- define "multimodal-sidecar.grace" -}}
{{- default (include "multimodal-sidecar.leastGrace" . | int) (int .Values.drain.terminationGracePeriodSeconds) }}
{{- end }}
