{{/* Puts the chained plugin into the node's CNI configuration, or takes it out. */}}
{{- define "seventh.cniContainer" -}}
- name: cni
  image: {{ include "seventh.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/seventh-cni]
  args:
    - {{ .Values.cni.action }}
    - --bin-dir={{ .Values.cni.binDir }}
    - --conf-dir={{ .Values.cni.confDir }}
    {{- if eq .Values.cni.action "install" }}
    - --socket={{ .Values.paths.run }}/seventh.sock
    - --timeout-seconds={{ .Values.cni.timeoutSeconds }}
    - --on-timeout={{ .Values.cni.onTimeout }}
    - --keep
  # It stays beside the agent, which never waits for it; a pod without the plugin in place is not ready, and says why.
  restartPolicy: Always
  readinessProbe:
    exec:
      command: [/seventh-cni, check, --bin-dir={{ .Values.cni.binDir }}, --conf-dir={{ .Values.cni.confDir }}]
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
    {{- end }}
  securityContext:
    privileged: false
    allowPrivilegeEscalation: false
    runAsUser: 0
    runAsGroup: 0
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  volumeMounts:
    - name: cni-bin
      mountPath: {{ .Values.cni.binDir }}
    - name: cni-conf
      mountPath: {{ .Values.cni.confDir }}
{{- end -}}
