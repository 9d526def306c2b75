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
{{- include "layertrace.print" (dict "root" .root "object" $object) }}
{{- end }}

{{/* Whether the proxies fetch a Wasm module. */}}
{{- define "layertrace.usesWasm" -}}
{{- if has .Values.reorder.method (list "wasmplugin" "wasmplugin-inline-headers" "envoyfilter") }}true{{ end }}
{{- end }}
