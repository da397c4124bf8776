{{- define "inkit-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* At most 52 characters: a StatefulSet adds a hash of 11, and a label holds 63. No dots: a Service can't have them. */}}
{{- define "inkit-exporter.fullname" -}}
{{- $name := include "inkit-exporter.name" . }}
{{- if .Values.fullnameOverride }}
{{- $name = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- $name = .Release.Name }}
{{- else }}
{{- $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- $name | replace "." "-" | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* Selectors can't be changed later: nothing that varies between versions belongs here. */}}
{{- define "inkit-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "inkit-exporter.name" . | toYaml }}
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
{{- end }}

{{- /* metadata of an object; (list $ (dict "name" …, "labels" …, "annotations" …)) */}}
{{- define "inkit-exporter.metadata" -}}
{{- $root := index . 0 }}
{{- $own := index . 1 }}
{{- $version := default $root.Chart.AppVersion $root.Values.image.tag | trunc 63 | trimAll "-._" }}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- $labels := merge
      (include "inkit-exporter.selectorLabels" $root | fromYaml)
      (dict "app.kubernetes.io/version" $version "app.kubernetes.io/managed-by" $root.Release.Service "helm.sh/chart" $chart)
      (default dict $own.labels)
      (default dict $root.Values.commonLabels) }}
{{- $annotations := merge (dict) (default dict $own.annotations) (default dict $root.Values.commonAnnotations) -}}
metadata:
  name: {{ default (include "inkit-exporter.fullname" $root) $own.name | toYaml }}
  labels:
    {{- toYaml $labels | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "inkit-exporter.serviceAccountName" -}}
{{- default (ternary (include "inkit-exporter.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "inkit-exporter.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* One entry for each account: {account}, and {secret, key, file} too if the chart mounts the account's token. */}}
{{- define "inkit-exporter.tokens" -}}
{{- $tokens := list }}
{{- range .Values.config.accounts }}
{{- $token := dict "account" .name }}
{{- if not (or .api_token_file .api_token_env) }}
{{- $own := default dict .tokenSecret }}
{{- $secret := default $.Values.tokenSecret $own.name }}
{{- $key := default .name $own.key }}
{{- $folder := ternary "/run/secrets/inkit" (printf "/run/secrets/inkit-accounts/%s" $secret) (eq $secret $.Values.tokenSecret) }}
{{- $token = merge $token (dict "secret" $secret "key" $key "file" (printf "%s/%s" $folder $key)) }}
{{- end }}
{{- $tokens = append $tokens $token }}
{{- end }}
{{- toJson $tokens }}
{{- end }}

{{- /* The Secrets that accounts name, with the keys that are used: {secret: {key: true}}. */}}
{{- define "inkit-exporter.accountSecrets" -}}
{{- $secrets := dict }}
{{- range include "inkit-exporter.tokens" . | fromJsonArray }}
{{- if and .secret (ne .secret $.Values.tokenSecret) }}
{{- $_ := set $secrets .secret (set (default dict (get $secrets .secret)) .key true) }}
{{- end }}
{{- end }}
{{- toJson $secrets }}
{{- end }}

{{- /* The exporter's configuration. */}}
{{- define "inkit-exporter.config" -}}
{{- $tokens := include "inkit-exporter.tokens" . | fromJsonArray }}
{{- $accounts := list }}
{{- range $i, $account := .Values.config.accounts }}
{{- $account = omit $account "tokenSecret" }}
{{- with (index $tokens $i).file }}{{ $account = set $account "api_token_file" . }}{{ end }}
{{- $accounts = append $accounts $account }}
{{- end }}
{{- $config := dict "accounts" $accounts }}
{{- with .Values.config.poll }}{{ $config = set $config "poll" . }}{{ end }}
{{- with .Values.config.api }}{{ $config = set $config "api" . }}{{ end -}}
# config.example.yaml explains every key.
{{ toYaml $config }}
{{- end }}

{{- /* The web configuration that the chart keeps; empty without one. */}}
{{- define "inkit-exporter.webConfig" -}}
{{- if not .Values.web.existingSecret.name }}
{{- $config := deepCopy (default dict .Values.web.config) }}
{{- if .Values.web.certificateSecret }}
{{- $tls := default dict $config.tls_server_config }}
{{- if not (or $tls.cert $tls.cert_file) }}
{{- $tls = merge (dict "cert_file" "/etc/inkit-exporter/certificate/tls.crt" "key_file" "/etc/inkit-exporter/certificate/tls.key") $tls }}
{{- end }}
{{- $_ := set $config "tls_server_config" $tls }}
{{- end }}
{{- with $config }}{{ toYaml . }}{{ end }}
{{- end }}
{{- end }}

{{- define "inkit-exporter.webSecret" -}}
{{- if .Values.web.existingSecret.name }}
{{- .Values.web.existingSecret.name }}
{{- else if include "inkit-exporter.webConfig" . }}
{{- printf "%s-web" (include "inkit-exporter.fullname" .) }}
{{- end }}
{{- end }}

{{- /* Not empty if the exporter serves TLS. */}}
{{- define "inkit-exporter.tls" -}}
{{- if .Values.web.existingSecret.name }}
{{- with .Values.web.existingSecret }}{{ if or .tls .requiresClientCertificate }}true{{ end }}{{ end }}
{{- else if (include "inkit-exporter.webConfig" . | fromYaml).tls_server_config }}true
{{- end }}
{{- end }}

{{- /* Not empty if the exporter refuses clients without a certificate. */}}
{{- define "inkit-exporter.requiresClientCertificate" -}}
{{- if .Values.web.existingSecret.name }}
{{- if .Values.web.existingSecret.requiresClientCertificate }}true{{ end }}
{{- else }}
{{- $tls := default dict (include "inkit-exporter.webConfig" . | fromYaml).tls_server_config }}
{{- if eq (default "" $tls.client_auth_type) "RequireAndVerifyClientCert" }}true{{ end }}
{{- end }}
{{- end }}

{{- /* How a probe asks: (list $ "/-/healthy"). Health needs no password, and the kubelet checks no certificate. */}}
{{- define "inkit-exporter.probe" -}}
{{- $root := index . 0 }}
{{- if include "inkit-exporter.requiresClientCertificate" $root -}}
tcpSocket: {port: http}
{{- else -}}
httpGet: {path: {{ index . 1 }}, port: http, scheme: {{ ternary "HTTPS" "HTTP" (not (empty (include "inkit-exporter.tls" $root))) }}}
{{- end }}
{{- end }}

{{- define "inkit-exporter.podSecurityContext" -}}
{{- $openshift := .Values.openshift }}
{{- if eq (toString $openshift) "auto" }}
{{- $openshift = .Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- end }}
{{- toYaml (ternary (omit .Values.podSecurityContext "runAsUser" "runAsGroup" "fsGroup") .Values.podSecurityContext $openshift) }}
{{- end }}

{{- /* Fails on values that the schema takes one by one, but that contradict one another. */}}
{{- define "inkit-exporter.check" -}}
{{- $names := dict }}
{{- range .Values.config.accounts }}
{{- if hasKey $names .name }}
{{- fail (printf "config.accounts: two accounts are named `%s`; give every account its own name" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- range include "inkit-exporter.tokens" . | fromJsonArray }}
{{- if and .secret (not (regexMatch "^[-._a-zA-Z0-9]+$" .key)) }}
{{- fail (printf "config.accounts: `%s` can't be a key of a Secret; give the account a `tokenSecret: {key: …}`" .account) }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
{{- $flag := first (splitList "=" .) }}
{{- if has $flag (list "--config.file" "--log.format" "--log.level" "--shard" "--storage.path" "--web.config.file") }}
{{- fail (printf "extraArgs: the chart sets %s; use the value for it" $flag) }}
{{- else if has $flag (list "--web.listen-address" "--web.systemd-socket" "--web.telemetry-path") }}
{{- fail (printf "extraArgs: %s would hide the exporter from the Service, the probes or Prometheus; leave it out" $flag) }}
{{- end }}
{{- end }}
{{- if and .Values.web.config .Values.web.existingSecret.name }}
{{- fail "web.config and web.existingSecret.name exclude each other; keep one" }}
{{- end }}
{{- if and .Values.storage.existingClaim (gt (int .Values.shards) 1) }}
{{- fail "storage.existingClaim is one volume, and every shard needs its own; leave it out, or set shards to 1" }}
{{- end }}
{{- $api := default dict .Values.config.api }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.egress) }}
{{- if or $api.proxy_url $api.proxy_from_environment }}
{{- fail "config.api: the NetworkPolicy does not let the pods out to the proxy; allow its address and port in networkPolicy.egress" }}
{{- end }}
{{- range .Values.config.accounts }}
{{- $host := (urlParse (default "" .base_url)).host }}
{{- if and (regexMatch ":[0-9]+$" $host) (not (hasSuffix ":443" $host)) }}
{{- fail (printf "config.accounts: the NetworkPolicy does not let the pods out to %s; allow its address and port in networkPolicy.egress" $host) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (include "inkit-exporter.tls" .) (not .Values.serviceMonitor.tlsConfig) }}
{{- fail "serviceMonitor.tlsConfig: the exporter serves TLS; say how Prometheus checks its certificate (ca, serverName)" }}
{{- end }}
{{- end }}
