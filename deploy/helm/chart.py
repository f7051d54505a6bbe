#!/usr/bin/env python3
"""Helm itself, from the package helm-python-sdk, for what this repository asks of its chart.

    chart.py render [RELEASE [NAMESPACE]] < VALUES   what `helm template` gives, as JSON: {path of the template: text}
    chart.py lint < VALUES                           what `helm lint --strict` finds, as JSON
    chart.py files < VALUES                          what deploy/manifests/ should have, as JSON: {file: text}
    chart.py manifests                               writes it

VALUES is JSON; no cluster and no network is involved. Exit status 1: Helm refuses, and says why on standard error.
`./seventh-dev setup` installs the package.
"""

import json
import pathlib
import sys

from helm_python import Chart, HelmError, lint

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
CHART = DEPLOY / "helm" / "seventh"
# Who applies the manifests does it without Helm, which would take what has these for its own.
HELM_S_OWN = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")
MADE = "# Made from deploy/helm/seventh by `./seventh-dev manifests`.\n"


def render(values, name="seventh", namespace="kube-system"):
    with Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return chart.render(values, name=name, namespace=namespace, is_install=True)


def manifests(values):
    """The files of `deploy/manifests/` and their text."""
    objects = []
    for path, text in sorted(render(values).items()):
        if path.endswith(".yaml") and text.strip():
            lines = text.strip("\n").split("\n")
            objects.append("\n".join(line for line in lines if not line.strip().startswith(HELM_S_OWN)))
    crds = [path.read_text().strip("\n") for path in sorted((CHART / "crds").glob("*.yaml"))]
    return {
        "seventh.yaml": MADE + "---\n" + "\n---\n".join(objects) + "\n",
        "crds.yaml": MADE + "---\n" + "\n---\n".join(crds) + "\n",
    }


def main(command, *arguments):
    if command == "manifests":
        folder = DEPLOY / "manifests"
        folder.mkdir(exist_ok=True)
        for name, text in manifests({}).items():
            (folder / name).write_text(text)
        return
    values = json.load(sys.stdin)
    if command == "render":
        answer = render(values, *arguments)
    elif command == "files":
        answer = manifests(values)
    elif command == "lint":
        answer = lint(CHART, values, strict=True, namespace="kube-system")
    else:
        sys.exit(__doc__)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except HelmError as error:
        print(f"helm: {error}", file=sys.stderr)
        sys.exit(1)
