{{- /*
The labels of every object. `app.kubernetes.io/managed-by` is not among them: Helm sets it when it installs, and otherwise nobody
manages the objects but whoever applied them.
*/}}
{{- define "lacewing.labels" -}}
{{ include "lacewing.selector" . }}
app.kubernetes.io/part-of: lacewing
app.kubernetes.io/instance: {{ .Release.Name | toJson }}
app.kubernetes.io/version: {{ .Chart.AppVersion | toJson }}
helm.sh/chart: lacewing-{{ .Chart.Version }}
{{- end }}

{{- /* The labels that never change, so that a Deployment can be upgraded. */}}
{{- define "lacewing.selector" -}}
app.kubernetes.io/name: lacewing-controller
app.kubernetes.io/component: controller
{{- end }}

{{- /*
Proxies trust exactly `spiffe://TRUST-DOMAIN/ns/lacewing/sa/lacewing-controller`, so the namespace cannot be chosen.
*/}}
{{- define "lacewing.namespace" -}}
{{- if ne .Release.Namespace "lacewing" -}}
{{- fail "Lacewing runs in the namespace lacewing: write `helm install lacewing CHART --namespace lacewing --create-namespace`" -}}
{{- end -}}
lacewing
{{- end }}

{{- define "lacewing.podmonitor.labels" -}}
{{ include "lacewing.labels" . }}
{{- range $key, $value := .Values.podMonitor.labels }}
{{ $key | toJson }}: {{ $value | toJson }}
{{- end }}
{{- end }}
