{{- define "ostler.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ostler.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "ostler.labels" -}}
{{ include "ostler.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ostler.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "ostler.name" .) }}
{{- else }}{{ required "serviceAccount.name: say which service account to use, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Who the roles are bound to. */}}
{{- define "ostler.subjects" -}}
- kind: ServiceAccount
  name: {{ include "ostler.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What the controller does with the resources it watches and with what they stand for; Secrets apart. */}}
{{- define "ostler.resourceRules" -}}
- apiGroups: [ostler.dev]
  resources: [llmbackends, hostagents, experts, taskqueues, workerpools, taskschedules, containerhealthchecks, callers, notifiers]
  verbs: [get, list, watch]
- apiGroups: [ostler.dev]
  resources: [llmbackends/status, hostagents/status, experts/status, taskqueues/status, workerpools/status, taskschedules/status, containerhealthchecks/status, callers/status, notifiers/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Experts' system prompts.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
{{- if .Values.rbac.workerPools }}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- end }}
{{- if .Values.rbac.workloadRecovery }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, delete]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
{{- end }}
{{- if .Values.rbac.containers }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
{{- end }}
{{- if .Values.rbac.patchWorkloads }}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [patch]
{{- end }}
{{- end }}
