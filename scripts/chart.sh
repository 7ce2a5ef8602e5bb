#!/bin/sh
# The chart: `chart.sh make` makes what is made of it, `chart.sh test` holds it against the real tools.
#
# The tools come from locks with hashes into environments of their own: .venv-chart (Helm's engine, Kubernetes' schemas;
# behind them .venv, for the server's own settings) and .venv-checkov. The operators' schemas are npm packages: without
# node they are left out, which is said, and with CHART_ALL=1 fails.
set -eu
cd "$(dirname "$0")/.."
say() { printf '>> %s\n' "$*"; }
without() { say "LEFT OUT: $*"; [ "${CHART_ALL:-}" != 1 ]; }

scripts/venv.sh .venv-chart requirements/chart.lock
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
printf 'import site; site.addsitedir("%s")\n' "$(packages .venv/bin/python)" >"$(packages .venv-chart/bin/python)/behind.pth"
python=.venv-chart/bin/python

if [ "${1:-}" = make ]; then
    .venv/bin/python scripts/chart_docs.py
    exec $python scripts/chart_part.py
fi

say "what is made of the chart is up to date"
.venv/bin/python scripts/chart_docs.py --check
$python scripts/chart_part.py --check

say "yamllint: values, settings and rules as they are written"
.venv-chart/bin/yamllint --strict --config-file helm/yamllint.yaml helm

say "helm lint, helm template, Kubernetes' schemas, names twice"
command -v kubectl >/dev/null || without "no kubectl here, so the Kustomize component is not built"
rm -rf .cache/chart
$python -m scripts.chart_check

say "the operators' schemas: PodMonitor, ServiceMonitor, PrometheusRule, ScaledObject"
if command -v npm >/dev/null; then
    (cd scripts/chart_schemas && npm ci --silent --no-audit --no-fund && node validate.mjs ../../.cache/chart/*.json)
else
    without "no node and npm here, so objects of operators are held against no schema"
fi

say "the renders behave"
$python -m pytest tests/helm

say "checkov: policies"
scripts/venv.sh .venv-checkov requirements/checkov.lock
checkov() { .venv-checkov/bin/checkov --framework kubernetes --compact --quiet --skip-download "$@"; }
# What is all our own passes every check, with none skipped.
checkov -f .cache/chart/pool.yaml .cache/chart/inject.yaml
# With Triton beside it, or somebody's own values, some do not hold; offline checkov knows no severities, so each that is
# skipped stands here with its reason:
#   CKV2_K8S_6    bundle: the network policy is off until somebody says who calls; options has it on
#   CKV_K8S_11    bundle: a CPU limit would stop the model server's own threads; options has one
#   CKV_K8S_15    a release's tag does not move, so it need not be pulled each time; with a digest this is no finding
#   CKV_K8S_22    Triton's backends write where they like; what they need is theirs to say (triton.securityContext)
#   CKV_K8S_35    options: a secret as variables is what its values ask for
#   CKV_K8S_40    Triton's image has the user 1000
#   CKV_K8S_43    digests are the operator's to give (sidecar.image.digest, triton.image.digest); pool has one
checkov -f .cache/chart/bundle.yaml .cache/chart/options.yaml \
    --skip-check CKV2_K8S_6,CKV_K8S_11,CKV_K8S_15,CKV_K8S_22,CKV_K8S_35,CKV_K8S_40,CKV_K8S_43
say "all is well"
