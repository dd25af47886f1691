{{/* The Study that `helm test` creates: small, without GPUs, in pods that Pod Security "restricted" admits. */}}
{{- define "study-operator.testStudy" -}}
apiVersion: study-operator.io/v1alpha1
kind: Study
metadata:
  name: {{ include "study-operator.fullname" . }}-test
  namespace: {{ include "study-operator.testNamespace" . }}
spec:
  objectives:
  - {name: loss, direction: Minimize}
  parameters:
  - {name: x, float: {low: -10, high: 10}}
  sampler: {name: Random, seed: 1}
  maxTrials: 4
  parallelism: 2
  maxFailedTrials: 0
  gpusPerTrial: 0
  deletionPolicy: Delete
  jobTemplate:
    spec:
      activeDeadlineSeconds: 240
      template:
        spec:
          automountServiceAccountToken: false
          {{- with include "study-operator.imagePullSecrets" . }}
          {{- . | nindent 10 }}
          {{- end }}
          securityContext:
            runAsNonRoot: true
            seccompProfile:
              type: RuntimeDefault
          containers:
          - name: trial
            image: {{ include "study-operator.image" (dict "root" . "image" .Values.trialImage) }}
            imagePullPolicy: {{ .Values.trialImage.pullPolicy }}
            command:
            - python
            - -c
            - |
              import study_trial

              trial = study_trial.current()
              x = trial.suggest_float("x", -10, 10)
              for step in range(3):
                  trial.report((x - 2) ** 2 + 1 / (step + 1), step)
              trial.finish((x - 2) ** 2)
            resources:
              requests: {cpu: 50m, memory: 64Mi}
              limits: {memory: 256Mi}
            securityContext:
              {{- include "study-operator.containerSecurityContext" . | nindent 14 }}
{{- end }}
