{{- /* Names, labels and small arithmetic. Nothing here knows what a sidecar is. */ -}}

{{- define "multimodal-sidecar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "multimodal-sidecar.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $own .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "multimodal-sidecar.serviceAccount" -}}
{{- default (ternary (include "multimodal-sidecar.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "multimodal-sidecar.configMap" -}}
{{- default (include "multimodal-sidecar.fullname" .) .Values.existingConfigMap }}
{{- end }}

{{- define "multimodal-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ include "multimodal-sidecar.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "multimodal-sidecar.labels" -}}
{{- $own := include "multimodal-sidecar.selectorLabels" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" (.Chart.AppVersion | toString) }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own .Values.commonLabels) }}
{{- end }}

{{- /* An object's metadata: a list of the context, a suffix of the name, and labels, annotations and namespace of its own. */ -}}
{{- define "multimodal-sidecar.metadata" -}}
{{- $context := index . 0 }}{{ $suffix := index . 1 }}{{ $own := index . 2 -}}
name: {{ include "multimodal-sidecar.fullname" $context }}{{ $suffix }}
namespace: {{ default $context.Release.Namespace $own.namespace }}
labels: {{- merge (include "multimodal-sidecar.labels" $context | fromYaml) (default dict $own.labels) | toYaml | nindent 2 }}
{{- with merge (dict) (default dict $own.annotations) $context.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The label selector of pods: the chart's own, or those named where pods are somebody else's. A list of the context
       and the value. */ -}}
{{- define "multimodal-sidecar.podSelector" -}}
{{- $context := index . 0 }}{{ $named := index . 1 }}
{{- if $named }}{{ toYaml $named }}
{{- else }}matchLabels: {{- include "multimodal-sidecar.selectorLabels" $context | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A list laid over another by a key, as JSON: whoever comes later takes the place of one with the same key. Given are
       the key, then lists. */ -}}
{{- define "multimodal-sidecar.laid" -}}
{{- $key := first . }}{{ $order := list }}{{ $last := dict }}
{{- range rest . }}{{ range . }}
{{- $name := get . $key }}
{{- if not (hasKey $last $name) }}{{ $order = append $order $name }}{{ end }}
{{- $_ := set $last $name . }}
{{- end }}{{ end }}
{{- $laid := list }}
{{- range $order }}{{ $laid = append $laid (get $last .) }}{{ end }}
{{- toJson $laid }}
{{- end }}

{{- define "multimodal-sidecar.image" -}}
{{- $image := index . 0 }}{{ $tag := default (index . 1) $image.tag }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- /* Bytes of a quantity such as 1.5Gi; the empty text for what is none. */ -}}
{{- define "multimodal-sidecar.bytes" -}}
{{- $text := toString . }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text }}{{ $unit := trimPrefix $number $text }}
{{- if and $number (hasKey $units $unit) }}{{ mulf (float64 $number) (float64 (get $units $unit)) | int64 }}{{ end }}
{{- end }}

{{- /* Thousandths of a CPU of a quantity such as 2, 0.5 or 1500m. */ -}}
{{- define "multimodal-sidecar.millicpus" -}}
{{- $text := toString . }}
{{- if hasSuffix "m" $text }}{{ trimSuffix "m" $text | int64 }}{{ else }}{{ mulf (float64 $text) 1000.0 | int64 }}{{ end }}
{{- end }}
