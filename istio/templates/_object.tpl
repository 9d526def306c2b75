{{/*
SPDX-License-Identifier: Apache-2.0

The chart has no copies of the manifests: it reads those that kustomize and layertrace
install use, changes fields, and prints them.
*/}}

{{/* Namespace of the agents. */}}
{{- define "layertrace.namespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{/* A file of manifests, in which proxies find the agents' service. */}}
{{- define "layertrace.file" -}}
{{- $host := "layertrace-access-log.%s.svc" -}}
{{ .root.Files.Get .file | replace (printf $host "layertrace-system") (printf $host (include "layertrace.namespace" .root)) }}
{{- end }}

{{/* Print an object with the additional labels. */}}
{{- define "layertrace.print" -}}
{{- $labels := merge (dict) .object.metadata.labels .root.Values.labels }}
{{- $_ := set .object.metadata "labels" $labels }}
---
{{ toYaml .object }}
{{- end }}

{{/* Read an object of the agents' namespace and print it. */}}
{{- define "layertrace.agent" -}}
{{- $object := include "layertrace.file" . | fromYaml }}
{{- $_ := set $object.metadata "namespace" (include "layertrace.namespace" .root) }}
{{- if and (eq $object.kind "Service") .root.Values.limit.namespaces }}
{{- /* Other proxies get no configuration for it. */}}
{{- $_ := set $object.metadata "annotations" (dict "networking.istio.io/exportTo" (join "," (concat (list ".") .root.Values.limit.namespaces))) }}
{{- end }}
{{- include "layertrace.print" (dict "root" .root "object" $object) }}
{{- end }}

{{/* Print an object that Istio reads, for the proxies to which the chart is limited: in each
chosen namespace instead of the root namespace, with a selector, with the revision's label. */}}
{{- define "layertrace.mesh" -}}
{{- $values := .root.Values }}
{{- $object := .object }}
{{- with $values.limit.workloadLabels }}
{{- if eq $object.kind "EnvoyFilter" }}
{{- $_ := set $object.spec "workloadSelector" (dict "labels" .) }}
{{- else }}
{{- $_ := set $object.spec "selector" (dict "matchLabels" .) }}
{{- end }}
{{- end }}
{{- with $values.limit.revision }}
{{- $_ := set $object.metadata.labels "istio.io/rev" . }}
{{- end }}
{{- $root := . }}
{{- range $values.limit.namespaces | default (list $values.istio.namespace) }}
{{- $one := deepCopy $object }}
{{- $_ := set $one.metadata "namespace" . }}
{{- if and (eq $one.kind "EnvoyFilter") (eq $one.metadata.name "layertrace") (eq $values.reorder.method "wasmplugin") }}
{{- /* The name under which this version of Istio serves the WasmPlugin. */}}
{{- $name := printf "extensions.istio.io/trafficextension/%s.layertrace~istio-translated-wasmplugin" . }}
{{- if and $values.istio.version (semverCompare "<1.30.0-0" $values.istio.version) }}
{{- $name = printf "extensions.istio.io/wasmplugin/%s.layertrace" . }}
{{- end }}
{{- range $one.spec.configPatches }}
{{- $_ := set (first .patch.value.typed_config.upstream_http_filters) "name" $name }}
{{- end }}
{{- end }}
{{- include "layertrace.print" (dict "root" $root.root "object" $one) }}
{{- end }}
{{- end }}

{{/* Whether the proxies fetch a Wasm module. */}}
{{- define "layertrace.usesWasm" -}}
{{- if has .Values.reorder.method (list "wasmplugin" "wasmplugin-inline-headers" "envoyfilter") }}true{{ end }}
{{- end }}
