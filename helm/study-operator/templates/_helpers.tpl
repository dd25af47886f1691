{{- define "study-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 42 | trimSuffix "-" }}
{{- end }}

{{/* At most 42 characters: "<fullname>-database-<hash>" must still fit into a label of 63. */}}
{{- define "study-operator.fullname" -}}
{{- $name := include "study-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
Labels that never change over upgrades: for selectors, which may not, and for pods, which would be restarted for it.
Call with (dict "root" $ "component" "operator").
*/}}
{{- define "study-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "study-operator.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "study-operator.labels" -}}
{{ include "study-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: study-operator
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Call with (dict "root" $ "image" .Values.operator.image). */}}
{{- define "study-operator.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- $variant := ternary (printf "-%s" .image.variant) "" (not (empty .image.variant)) }}
{{- printf "%s:%s%s" .image.repository (.image.tag | default .root.Chart.AppVersion) $variant }}
{{- end }}
{{- end }}

{{- define "study-operator.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What Pod Security "restricted" asks of every container, and a root file system nobody writes to. */}}
{{- define "study-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "study-operator.keysSecret" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-generated" (include "study-operator.fullname" .)) }}
{{- end }}

{{/* The Secret of versions before 0.3. It was part of the manifest, so that a rollback brought former values back. */}}
{{- define "study-operator.formerKeysSecret" -}}
{{- include "study-operator.fullname" . }}-keys
{{- end }}

{{- define "study-operator.trialsApi" -}}
{{ include "study-operator.fullname" . }}-trials-api
{{- end }}

{{- define "study-operator.databaseService" -}}
{{ include "study-operator.fullname" . }}-database
{{- end }}

{{/*
Where the operator finds the database, without a password. The name ends in ".svc", which every pod of the cluster
resolves through its search path, whatever the cluster's domain is: trial pods in other namespaces use the same address.
*/}}
{{- define "study-operator.databaseURL" -}}
{{- if eq .Values.database.mode "embedded" }}
{{- $sslmode := ternary "verify-full" "disable" (not (empty (include "study-operator.tlsSecret" .))) }}
{{- printf "postgresql://study_operator@%s.%s.svc:5433/studies?sslmode=%s" (include "study-operator.databaseService" .) .Release.Namespace $sslmode }}
{{- else }}
{{- with .Values.database.external }}
{{- printf "postgresql://%s@%s:%v/%s?sslmode=%s" (urlquery .user | replace "+" "%20") .host .port (urlquery .name | replace "+" "%20") .sslmode }}
{{- end }}
{{- end }}
{{- end }}

{{/* "true" if the operator and trial pods are to check the database's certificate. */}}
{{- define "study-operator.hasCA" -}}
{{- $ca := .Values.database.external.ca }}
{{- if eq .Values.database.mode "external" }}
{{- if or $ca.secretName $ca.configMapName }}true{{ end }}
{{- else if include "study-operator.tlsSecret" . }}true
{{- end }}
{{- end }}

{{/* The Secret with the embedded database's certificate, its key and its CA; empty where there is none. */}}
{{- define "study-operator.tlsSecret" -}}
{{- if eq .Values.database.mode "embedded" }}
{{- if .Values.database.embedded.tlsSecret }}
{{- .Values.database.embedded.tlsSecret }}
{{- else if not .Values.secrets.existingSecret }}
{{- include "study-operator.databaseService" . }}-tls
{{- end }}
{{- end }}
{{- end }}

{{/* "true" if the chart makes that Secret. With an own Secret of passwords, helm may not see what it has made before. */}}
{{- define "study-operator.generatesTLS" -}}
{{- if and (include "study-operator.tlsSecret" .) (not .Values.database.embedded.tlsSecret) }}true{{ end }}
{{- end }}

{{/* The data of that Secret, as JSON: what the cluster has already, or else a new authority and its only certificate. */}}
{{- define "study-operator.generatedTLS" -}}
{{- if not (hasKey . "generatedTLS") }}
{{- $found := (lookup "v1" "Secret" .Release.Namespace (include "study-operator.tlsSecret" .)).data | default dict }}
{{- if not (index $found "tls.crt") }}
{{- $service := include "study-operator.databaseService" . }}
{{- $host := printf "%s.%s.svc" $service .Release.Namespace }}
{{- $ca := genCA "study-operator embedded database" 36500 }}
{{- $names := list $host (printf "%s.cluster.local" $host) $service "localhost" }}
{{- $certificate := genSignedCert (trunc 63 $service) (list "127.0.0.1") $names 36500 $ca }}
{{- $found = dict "ca.crt" ($ca.Cert | b64enc) "tls.crt" ($certificate.Cert | b64enc) "tls.key" ($certificate.Key | b64enc) }}
{{- end }}
{{- $_ := set . "generatedTLS" ($found | toJson) }}
{{- end }}
{{- .generatedTLS }}
{{- end }}

{{/* How many sessions each login of trials' pods may have in the embedded database. */}}
{{- define "study-operator.poolSize" -}}
4
{{- end }}

{{/* What the containers of the embedded database start with. */}}
{{- define "study-operator.databaseFiles" -}}
{{- $host := ternary "hostssl" "host   " (not (empty (include "study-operator.tlsSecret" .))) }}
{{- $most := int .Values.database.embedded.maxConnections }}
{{- $pooled := max (div $most 2) (sub $most (max 60 (div $most 5))) }}
pg_hba.conf: |
  {{- .Files.Get "files/database/pg_hba.conf" | replace "HOST   " $host | nindent 2 }}
pgbouncer.ini: |
  {{- .Files.Get "files/database/pgbouncer.ini" | replace "POOL_SIZE" (include "study-operator.poolSize" .) | replace "SERVER_CONNECTIONS" (toString $pooled) | nindent 2 }}
postgresql.sh: |
  {{- .Files.Get "files/database/postgresql.sh" | nindent 2 }}
{{- end }}

{{- define "study-operator.databaseMounts" -}}
- name: files
  mountPath: /etc/study-operator/database
  readOnly: true
{{- if include "study-operator.tlsSecret" . }}
- name: tls
  mountPath: /etc/study-operator/tls
  readOnly: true
{{- end }}
{{- end }}

{{/* The keys that the Secret of the operator's passwords must have, as a JSON list. */}}
{{- define "study-operator.keyNames" -}}
{{- $names := list "study-key-seed" }}
{{- if or (eq .Values.database.mode "embedded") .Values.database.external.manageReporter }}
{{- $names = append $names "reporter-password" }}
{{- end }}
{{- if and .Values.trialsApi.enabled (or (eq .Values.database.mode "embedded") .Values.database.external.manageReporter) }}
{{- $names = append $names "reader-password" }}
{{- end }}
{{- if eq .Values.database.mode "embedded" }}
{{- $names = append $names "database-password" }}
{{- end }}
{{- $names | toJson }}
{{- end }}

{{/* The data of the generated Secret as the cluster has it, as JSON; empty before the first installation. */}}
{{- define "study-operator.foundKeys" -}}
{{- (lookup "v1" "Secret" .Release.Namespace (include "study-operator.keysSecret" .)).data | default dict | toJson }}
{{- end }}

{{/*
The data of the generated Secret, as JSON: what the cluster has already, or else the values of version 0.2 and random
ones for all other keys, also for those that only another database.mode needs. Rendered once and remembered, because the
Secret and the Deployment's checksum must see the same random values.
*/}}
{{- define "study-operator.generatedKeys" -}}
{{- if not (hasKey . "generatedKeys") }}
{{- $data := include "study-operator.foundKeys" . | fromJson }}
{{- if not $data }}
{{- $former := (lookup "v1" "Secret" .Release.Namespace (include "study-operator.formerKeysSecret" .)).data | default dict }}
{{- range list "study-key-seed" "reporter-password" "reader-password" "database-password" }}
{{- $_ := set $data . (get $former . | default (randAlphaNum 48 | b64enc)) }}
{{- end }}
{{- end }}
{{- $_ := set . "generatedKeys" ($data | toJson) }}
{{- end }}
{{- .generatedKeys }}
{{- end }}

{{/*
Changes when a Secret or ConfigMap that the operator reads at its start has changed, so that `helm upgrade` restarts it.
Of objects that are not the chart's, only the version goes in: a hash of a short password could be guessed.
*/}}
{{- define "study-operator.secretsChecksum" -}}
{{- $seen := list }}
{{- if not .Values.secrets.existingSecret }}
{{- $seen = append $seen (include "study-operator.generatedKeys" .) }}
{{- end }}
{{- if include "study-operator.generatesTLS" . }}
{{- $seen = append $seen (index (include "study-operator.generatedTLS" . | fromJson) "ca.crt") }}
{{- end }}
{{- $ca := .Values.database.external.ca }}
{{- $refs := list (list "Secret" .Values.secrets.existingSecret) }}
{{- if eq .Values.database.mode "embedded" }}
{{- $refs = append $refs (list "Secret" .Values.database.embedded.tlsSecret) }}
{{- end }}
{{- if eq .Values.database.mode "external" }}
{{- $refs = append $refs (list "Secret" .Values.database.external.existingSecret) }}
{{- $refs = append $refs (list "Secret" $ca.secretName) }}
{{- $refs = append $refs (list "ConfigMap" $ca.configMapName) }}
{{- end }}
{{- range $refs }}
{{- if last . }}
{{- $object := lookup "v1" (first .) $.Release.Namespace (last .) }}
{{- $seen = append $seen (dig "metadata" "resourceVersion" "" $object) }}
{{- end }}
{{- end }}
{{- $seen | toJson | sha256sum }}
{{- end }}

{{/* Name and password of the login of the trials API, as the operator and `serve-api` need them; nothing without it. */}}
{{- define "study-operator.readerEnv" -}}
{{- $external := .Values.database.external }}
{{- $isExternal := eq .Values.database.mode "external" }}
{{- if .Values.trialsApi.enabled }}
- name: READER_PASSWORD
  valueFrom:
    secretKeyRef:
      {{- if and $isExternal (not $external.manageReporter) }}
      name: {{ $external.existingSecret }}
      {{- else }}
      name: {{ include "study-operator.keysSecret" . }}
      {{- end }}
      key: reader-password
{{- if $isExternal }}
- name: READER_USER
  value: {{ $external.reader.user | quote }}
{{- end }}
{{ end }}
{{- end }}

{{/* The operator's whole environment, the same for its init container. */}}
{{- define "study-operator.env" -}}
{{- $external := .Values.database.external }}
{{- $isExternal := eq .Values.database.mode "external" }}
- name: DATABASE_URL
  value: {{ include "study-operator.databaseURL" . | quote }}
- name: DATABASE_PASSWORD
  valueFrom:
    secretKeyRef:
      {{- if $isExternal }}
      name: {{ $external.existingSecret }}
      key: password
      {{- else }}
      name: {{ include "study-operator.keysSecret" . }}
      key: database-password
      {{- end }}
{{- if include "study-operator.hasCA" . }}
- name: DATABASE_CA_FILE
  value: /etc/study-operator/database-ca/ca.crt
- name: REPORTER_CA_FILE
  value: /etc/study-operator/database-ca/ca.crt
{{- end }}
- name: REPORTER_PASSWORD
  valueFrom:
    secretKeyRef:
      {{- if and $isExternal (not $external.manageReporter) }}
      name: {{ $external.existingSecret }}
      {{- else }}
      name: {{ include "study-operator.keysSecret" . }}
      {{- end }}
      key: reporter-password
{{- if $isExternal }}
- name: REPORTER_USER
  value: {{ $external.reporter.user | quote }}
- name: MANAGE_REPORTER
  value: {{ $external.manageReporter | quote }}
{{- with $external.reporter.host }}
- name: REPORTER_HOST
  value: {{ . | quote }}
{{- end }}
{{- with $external.reporter.port }}
- name: REPORTER_PORT
  value: {{ . | quote }}
{{- end }}
{{- with $external.reporter.sslmode }}
- name: REPORTER_SSLMODE
  value: {{ . | quote }}
{{- end }}
{{- with $external.reporter.logins }}
- name: REPORTER_LOGINS
  value: {{ . | quote }}
{{- end }}
{{- else }}
- name: REPORTER_LOGINS
  value: namespace
- name: REPORTER_PORT
  value: "5432"
- name: POOLER_USER
  value: study_pooler
{{- end }}
{{- include "study-operator.readerEnv" . }}
- name: STUDY_KEY_SEED
  valueFrom:
    secretKeyRef:
      name: {{ include "study-operator.keysSecret" . }}
      key: study-key-seed
{{- with .Values.watchNamespaces }}
- name: WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with include "study-operator.namespaceSelector" . }}
- name: WATCH_NAMESPACE_SELECTOR
  value: {{ . | quote }}
{{- end }}
{{- with .Values.allowedNamespaces }}
- name: ALLOWED_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.samplerClasses }}
- name: SAMPLER_CLASSES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.gpuNames }}
- name: GPU_NAMES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.limits }}
- name: STUDIES_PER_NAMESPACE
  value: {{ .studiesPerNamespace | int64 | quote }}
- name: TRIALS_PER_STUDY
  value: {{ .trialsPerStudy | int64 | quote }}
- name: REPORTS_PER_TRIAL
  value: {{ .reportsPerTrial | int64 | quote }}
- name: BYTES_PER_STUDY
  value: {{ .bytesPerStudy | int64 | quote }}
- name: BYTES_PER_NAMESPACE
  value: {{ .bytesPerNamespace | int64 | quote }}
{{- end }}
- name: OPTIMIZER_SOCKET
  value: /run/study-operator/optimizer.sock
{{- with .Values.optimizer }}
- name: OPTIMIZER_PROCESSES
  value: {{ .processes | quote }}
- name: OPTIMIZER_MEMORY_MIB
  value: {{ .memoryMiB | quote }}
- name: OPTIMIZER_SECONDS
  value: {{ .seconds | quote }}
{{- end }}
- name: TRIAL_IMAGE
  value: {{ include "study-operator.image" (dict "root" . "image" .Values.trialImage) | quote }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_UID
  valueFrom:
    fieldRef: {fieldPath: metadata.uid}
- name: OPERATOR_POD
  value: {{ printf "%s/$(POD_NAME)/$(POD_UID)" .Release.Namespace | quote }}
- name: OPERATOR_SERVICE
  value: {{ printf "%s/%s" .Release.Namespace (include "study-operator.fullname" .) | quote }}
{{- with .Values.operator }}
- name: LOG_FORMAT
  value: {{ .logFormat | quote }}
- name: LOG_LEVEL
  value: {{ .logLevel | quote }}
- name: WORKERS
  value: {{ .workers | quote }}
- name: STORAGE_THREADS
  value: {{ .storageThreads | quote }}
- name: RESYNC_SECONDS
  value: {{ .resyncSeconds | quote }}
{{- end }}
{{- end }}

{{/* watchNamespaceSelector as the API server's calls have it: "team in (a,b),studies=yes". */}}
{{- define "study-operator.namespaceSelector" -}}
{{- $terms := list }}
{{- $selector := .Values.watchNamespaceSelector | default dict }}
{{- range $key, $value := $selector.matchLabels }}
{{- $terms = append $terms (printf "%s=%s" $key $value) }}
{{- end }}
{{- range $selector.matchExpressions }}
{{- $words := dict "In" "in" "NotIn" "notin" }}
{{- if hasKey $words .operator }}
{{- $terms = append $terms (printf "%s %s (%s)" .key (get $words .operator) (join "," .values)) }}
{{- else }}
{{- $terms = append $terms (printf "%s%s" (ternary "!" "" (eq .operator "DoesNotExist")) .key) }}
{{- end }}
{{- end }}
{{- join "," $terms }}
{{- end }}

{{/* A quantity of memory in MiB, rounded down: "1536Mi", "2Gi", "1.5G", "2000000000". */}}
{{- define "study-operator.mebibytes" -}}
{{- $quantity := toString . }}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?([eE][0-9]+)?" $quantity }}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $factor := get $factors (trimPrefix $number $quantity) | default 0 }}
{{- floor (divf (mulf (float64 $number) $factor) 1048576) | int64 }}
{{- end }}

{{/* Where `helm test` runs its Study: a namespace the operator serves. */}}
{{- define "study-operator.testNamespace" -}}
{{- if or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) }}
{{- .Release.Namespace }}
{{- else }}
{{- first .Values.watchNamespaces }}
{{- end }}
{{- end }}
