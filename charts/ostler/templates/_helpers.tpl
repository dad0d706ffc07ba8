{{- define "ostler.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What all pods of this release have. */}}
{{- define "ostler.instance" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ostler.selector" -}}
{{ include "ostler.instance" . }}
app.kubernetes.io/component: controller
{{- end }}

{{/* Labels of what belongs to no component. */}}
{{- define "ostler.commonLabels" -}}
{{ include "ostler.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ostler.labels" -}}
{{ include "ostler.commonLabels" . }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "ostler.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "ostler.name" .) }}
{{- else }}{{ required "serviceAccount.name: say which service account to use, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "ostler.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Who the roles are bound to. */}}
{{- define "ostler.subjects" -}}
- kind: ServiceAccount
  name: {{ include "ostler.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* The namespaces whose resources count, as JSON; empty: all. */}}
{{- define "ostler.watched" -}}
{{- if .Values.clusterWide }}[]{{ else }}{{ concat (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson }}{{ end }}
{{- end }}

{{/* The abilities that are on, as words between commas. */}}
{{- define "ostler.abilities" -}}
{{- $on := list }}
{{- range list "scaleWorkers" "restartWorkloads" "readLogs" "resizePods" "patchWorkloads" "makeWorkers" "readConfigMaps" }}
{{- if get $.Values . }}{{ $on = append $on . }}{{ end }}
{{- end }}
{{- join "," $on }}
{{- end }}

{{/* What the controller does with the resources that it watches, and what each ability adds; Secrets apart. */}}
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
{{- if .Values.readConfigMaps }}
# System prompts of experts.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
{{- end }}
{{- if or .Values.restartWorkloads .Values.readLogs .Values.resizePods .Values.patchWorkloads }}
# To act on pods is to look at them first.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
{{- end }}
{{- if .Values.restartWorkloads }}
- apiGroups: [""]
  resources: [pods]
  verbs: [delete]
{{- end }}
{{- if .Values.readLogs }}
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- if .Values.resizePods }}
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
{{- end }}
{{- if .Values.patchWorkloads }}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [patch]
{{- end }}
{{- if .Values.scaleWorkers }}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}
{{- if .Values.makeWorkers }}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- end }}
{{- end }}

{{/* Of the pod of every process. */}}
{{- define "ostler.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of the container of every process: who it is, where the database is, and what it logs. */}}
{{- define "ostler.env" -}}
- name: OSTLER_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret: name the Secret that holds the URL of a PostgreSQL database" .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
- name: POD_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
- name: POD_UID
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.uid}}
- name: OSTLER_LOG
  value: {{ .Values.log.filter | quote }}
{{- with .Values.sealing.existingSecret }}
- name: OSTLER_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.sealing.key }}}}
{{- end }}
{{- end }}

{{- define "ostler.probes" -}}
# Migrations run before the first answer.
startupProbe:
  httpGet: {path: /livez, port: health, scheme: HTTP}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: health, scheme: HTTP}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: health, scheme: HTTP}
  periodSeconds: 5
  timeoutSeconds: 3
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* The Secret with the certificate of whatever is exposed; empty: there is none. */}}
{{- define "ostler.tlsSecret" -}}
{{- if .Values.tls.secretName }}{{ .Values.tls.secretName }}
{{- else if .Values.tls.certManager.issuerRef }}{{ include "ostler.name" . }}-tls
{{- end }}
{{- end }}

{{- define "ostler.requiredTls" -}}
{{- required (printf "%s: only by TLS; set tls.secretName to a Secret of type kubernetes.io/tls, or tls.certManager.issuerRef" .what) (include "ostler.tlsSecret" .root) }}
{{- end }}
