{{/* The name that all objects begin with. */}}
{{- define "seventh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "seventh.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "seventh.fullname" .) -}}
{{- end -}}

{{/* By these the objects find the pods; they never change. */}}
{{- define "seventh.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{/* Name, namespace, labels and annotations of an object; `name`, `labels` and `annotations` are added. */}}
{{- define "seventh.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ $root.Release.Namespace }}
{{- end }}
labels:
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  app.kubernetes.io/part-of: {{ $root.Chart.Name }}
  {{- include "seventh.selector" $root | nindent 2 }}
  {{- with merge (dict) (.labels | default dict) $root.Values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) $root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "seventh.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* An address and port; IPv6 addresses are in brackets. */}}
{{- define "seventh.socketAddress" -}}
{{- if contains ":" .address -}}
{{- printf "[%s]:%d" .address (int .port) -}}
{{- else -}}
{{- printf "%s:%d" .address (int .port) -}}
{{- end -}}
{{- end -}}

{{/* Where the kubelet, which is in the same network, finds what listens there. */}}
{{- define "seventh.probeHost" -}}
{{- get (dict "0.0.0.0" "127.0.0.1" "::" "::1") .Values.metrics.address | default .Values.metrics.address -}}
{{- end -}}

{{/* The agent's configuration file. What the chart knows comes before `config`, which may not say otherwise. */}}
{{- define "seventh.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $metrics := dict "listen" (include "seventh.socketAddress" .Values.metrics) "seriesMax" .Values.metrics.seriesMax -}}
{{- with .Values.metrics.hubble -}}
{{- $_ := set $metrics "hubble" . -}}
{{- end -}}
{{- $_ := set $config "metrics" $metrics -}}
{{- $hubble := get $config "hubble" | default dict -}}
{{- $_ := set $hubble "eventBufferCapacity" .Values.hubble.eventBufferCapacity -}}
{{- if .Values.hubble.enabled -}}
{{- $secret := required "hubble.tls.secret: who reads flow records from elsewhere needs mutual TLS" .Values.hubble.tls.secret -}}
{{- $_ := set $hubble "listen" (include "seventh.socketAddress" .Values.hubble) -}}
{{- $files := "/etc/seventh/hubble-tls" -}}
{{- $_ := set $hubble "tls" (dict "certFile" (printf "%s/tls.crt" $files) "keyFile" (printf "%s/tls.key" $files) "clientCaFile" (printf "%s/ca.crt" $files) "serverName" .Values.hubble.tls.serverName) -}}
{{- end -}}
{{- $_ := set $config "hubble" $hubble -}}
{{- $kubernetes := get $config "kubernetes" | default dict -}}
{{- $_ := set $kubernetes "netnsDirs" (list .Values.paths.netns) -}}
{{- $_ := set $config "kubernetes" $kubernetes -}}
{{- $_ := set $config "api" (printf "%s/seventh.sock" .Values.paths.run) -}}
{{- $_ := set $config "bpffs" (printf "%s/seventh" .Values.paths.bpf) -}}
{{- toYaml $config -}}
{{- end -}}
