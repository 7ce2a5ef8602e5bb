{{- /* What autoscaling goes by. */ -}}

{{- /* CPU-seconds that a pod may have in its queue, as text: the wait that is allowed times its CPUs, in thousandths. */ -}}
{{- define "multimodal-sidecar.queuedMilliseconds" -}}
{{- mulf .Values.autoscaling.waitSeconds (include "multimodal-sidecar.millicpus" .Values.sidecar.resources.limits.cpu | float64) | ceil | int64 }}
{{- end }}

{{- /* CPUs of a pod that may be busy, in thousandths. */ -}}
{{- define "multimodal-sidecar.busyMillicpus" -}}
{{- mulf .Values.autoscaling.busyRatio (include "multimodal-sidecar.millicpus" .Values.sidecar.resources.limits.cpu | float64) | ceil | int64 }}
{{- end }}

{{- /* The series of this release's pods. */ -}}
{{- define "multimodal-sidecar.podSeries" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "multimodal-sidecar.fullname" . }}-.+"
{{- end }}
