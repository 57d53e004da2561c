"""What schemas cannot say of the files that deploy the service. Arguments: what to look at, and the folder of the repository.

    compose     SEC-97, 98: one published port, private networks, no secret in an environment, bounds on each container
    kubernetes  SEC-97, 98 and REL-26: the restricted profile for every pod, grace, probes, and secrets that stop the start
    workflows   SEC-94: exact versions, read-only tokens
    metrics     that each metric of the alerts and the dashboard is one that the service has
    settings    that docs/configuration.md has every setting of settings/default.yaml
    links       that each local link of the documents leads somewhere
"""

import json
import pathlib
import re
import sys

import yaml

problems = []


def expect(holds, message):
    if not holds:
        problems.append(message)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def compose(root):
    for name, fronts in (("docker-compose.yml", {"bedrock-proxy"}), ("docker-compose.prod.yml", {"traefik"})):
        file = yaml.safe_load((root / name).read_text())
        private = {key for key, network in file["networks"].items() if (network or {}).get("internal")}
        for service, its in file["services"].items():
            where = f"{name}: {service}"
            if "extends" in its:
                continue  # looked at where it is written out
            expect(("ports" in its) == (service in fronts), f"{where}: publishes ports, or does not where it should")
            expect(its.get("cap_drop") == ["ALL"], f"{where}: keeps capabilities")
            expect("no-new-privileges:true" in its.get("security_opt", []), f"{where}: may gain privileges")
            expect(its.get("read_only") or service == "postgres", f"{where}: has a root to write to")
            limits = its.get("deploy", {}).get("resources", {}).get("limits", {})
            expect(its.get("mem_limit") or limits.get("memory"), f"{where}: has no limit of memory")
            expect(its.get("pids_limit"), f"{where}: has no limit of processes")
            if service in ("postgres", "redis", "init", "socket"):
                expect(set(its["networks"]) <= private, f"{where}: is on a network with a way out")
            for key, value in its.get("environment", {}).items():
                secret = re.search(r"SECRET|PASSWORD|TOKEN|URL$", key) and not key.endswith(("_FILE", "PUBLIC_URL"))
                expect(not secret, f"{where}: {key} is a secret in an environment")
            if service in ("bedrock-proxy", "traefik", "postgres"):
                expect(its.get("stop_grace_period") == "90s", f"{where}: has less than 90 s to stop")


def pods(document):
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return [spec["template"]["spec"]] if "template" in spec else []


def kubernetes(root):
    for path in sorted((root / "k8s").glob("*.yaml")):
        for document in documents(path):
            where = f"{path.name}: {document['kind']}"
            for pod in pods(document):
                context = pod.get("securityContext", {})
                expect(context.get("runAsUser") == 10001 and context.get("runAsNonRoot"), f"{where}: runs as somebody else")
                expect(context.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{where}: has no filter of system calls")
                expect(pod.get("automountServiceAccountToken") is False, f"{where}: holds a token of the cluster")
                for container in pod["containers"]:
                    own = container.get("securityContext", {})
                    expect(own.get("readOnlyRootFilesystem") is True, f"{where}: has a root to write to")
                    expect(own.get("allowPrivilegeEscalation") is False, f"{where}: may gain privileges")
                    expect(own.get("capabilities") == {"drop": ["ALL"]}, f"{where}: keeps capabilities")
                    expect(container.get("resources", {}).get("limits", {}).get("memory"), f"{where}: has no limit of memory")
                for volume in pod["volumes"]:
                    if "secret" in volume:
                        expect(volume["secret"].get("defaultMode") == 0o440, f"{where}: secrets can be read by others")
            if document["kind"] == "Deployment":
                pod, = pods(document)
                proxy, = pod["containers"]
                expect(pod.get("terminationGracePeriodSeconds") == 90, f"{where}: has less than 90 s to stop")
                expect("preStop" in proxy.get("lifecycle", {}), f"{where}: has no preStop")
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    expect(probe in proxy, f"{where}: has no {probe}")
            if document["kind"] == "CronJob":
                expect(document["spec"].get("suspend") is True, f"{where}: would run beside the service's own jobs")
    resources = set(yaml.safe_load((root / "k8s/kustomization.yaml").read_text())["resources"])
    files = {path.name for path in (root / "k8s").glob("*.yaml")} - {"kustomization.yaml"}
    expect(resources == files, f"kustomization.yaml: lists {resources ^ files} or does not")


def workflows(root):
    for path in sorted((root / ".github/workflows").glob("*.yml")):
        file = yaml.safe_load(path.read_text())
        expect(file.get("permissions") == {"contents": "read"}, f"{path.name}: its token may write by default")
        for name, job in file["jobs"].items():
            expect("timeout-minutes" in job, f"{path.name}: {name} may run for ever")
            expect(not job.get("continue-on-error"), f"{path.name}: {name} may fail quietly")
            for step in job["steps"]:
                expect(not step.get("continue-on-error"), f"{path.name}: a step of {name} may fail quietly")
                uses = step.get("uses", "@v0.0.0")
                exact = re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$", uses)
                expect(exact, f"{path.name}: {uses} is no exact version")
                if uses.startswith("actions/checkout"):
                    expect(step["with"].get("persist-credentials") is False, f"{path.name}: {name} leaves its token in the tree")
    for name in ("Dockerfile", "docker-compose.yml", "docker-compose.prod.yml"):
        for image in re.findall(r"^(?:FROM|\s+image:)\s+(\S+)", (root / name).read_text(), re.M):
            exact = image == "scratch" or "${" in image or re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?(@sha256:[0-9a-f]{64})?$", image)
            expect(exact, f"{name}: {image} is no exact version")


def metrics(root):
    files = [path.read_text() for path in sorted((root / "src").rglob("*.rs"))]
    sources = "".join(text for text in files if "prometheus" in text)
    known = set(re.findall(r'"([a-z][a-z0-9_]*_[a-z0-9_]+)"', sources))
    known |= {"http_http_requests_total", "http_http_requests_duration_seconds"}  # of the HTTP middleware, by its namespace
    rules = yaml.safe_load((root / "deploy/alerts.yml").read_text())["groups"]
    alerts = [rule for group in rules for rule in group["rules"]]
    asked = [rule["expr"] for rule in alerts]
    dashboard = json.loads((root / "deploy/dashboard.json").read_text())
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expect(len(asked) > len(alerts) > 0, "no rules, or no panels")
    documented = set(re.findall(r"^\| `([a-z0-9_]+)` \| (?:counter|gauge|histogram) \|", (root / "docs/metrics.md").read_text(), re.M))
    for name in sorted(documented - known):
        expect(False, f"docs/metrics.md: {name} is no metric of the service")
    for expression in asked:
        plain = re.sub(r'"[^"]*"|\b(by|without)\s*\([^)]*\)|\{[^}]*\}|\$\w+|\[[^\]]*\]', " ", expression)
        for name in re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b(?!\s*\()", plain):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            expect(name in known or base in known, f"{name} is no metric of the service: {expression.strip()}")
            expect(name == "up" or {name, base} & documented, f"docs/metrics.md: {name} is missing")
    runbook = (root / "docs/runbook.md").read_text()
    tests = (root / "deploy/alerts.test.yml").read_text()
    for rule in alerts:
        name = rule["alert"]
        expect(rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}", f"{name}: its runbook is elsewhere")
        expect(f"\n## {name}\n" in runbook, f"{name}: is not in docs/runbook.md")
        expect(f'"{name}"' in tests, f"{name}: no test shows that it fires")


def settings(root):
    documented = set(re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)+)` \[", (root / "docs/configuration.md").read_text()))
    opened = {"aws.region_prefix_mappings", "models.aliases", "models.betas", "models.fields", "oauth.providers"}

    def names(tree, path):
        if isinstance(tree, dict) and tree and path not in opened:
            return set().union(*(names(value, f"{path}.{key}" if path else key) for key, value in tree.items()))
        return {path}

    there = names(yaml.safe_load((root / "settings/default.yaml").read_text()), "")
    expect(len(there) > 50, "too few settings were found to be all of them")
    expect(there == documented, f"docs/configuration.md: not documented, or not there: {sorted(there ^ documented)}")


def anchor(heading):
    """The name that a heading has in a link."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(root):
    files = sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])
    for path in files:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
        for target in re.findall(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            place, _, part = target.partition("#")
            leads = (path.parent / place).resolve() if place else path
            expect(leads.exists(), f"{path.relative_to(root)}: {target} leads nowhere")
            if part and leads.suffix == ".md" and leads.exists():
                headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", leads.read_text(), flags=re.S), re.M)
                expect(part in map(anchor, headings), f"{path.relative_to(root)}: {target} names no heading")


def main(what, root):
    checks = {check.__name__: check for check in (compose, kubernetes, workflows, metrics, settings, links)}
    checks[what](pathlib.Path(root).resolve())
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
