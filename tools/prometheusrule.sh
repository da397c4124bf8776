#!/bin/sh
# Prints the rules for Prometheus as a resource of the Prometheus Operator.   tools/prometheusrule.sh
# Kustomize can't do that: it takes nothing from outside its directory, and makes no structure out of a plain file.
set -eu
cat <<END
# Made from deploy/prometheus/rules.yml by \`make rules\`. Change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: inkit-exporter
spec:
END
sed 's/^./  &/' deploy/prometheus/rules.yml
