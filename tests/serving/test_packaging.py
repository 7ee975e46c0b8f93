"""The image and the unit: they parse, their command exists, and they give the service no more than it needs."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from beeline.cli.main import app

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "beeline.service"
INSTRUCTIONS = set("ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN STOPSIGNAL USER WORKDIR".split())


def image():
    """Pairs (instruction, rest) of the Dockerfile, without comments, with continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in lines]


def unit():
    parser = configparser.RawConfigParser(strict=False, delimiters="=", interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return parser


def check_command(words):
    """Read the arguments of ``beeline serve`` as the command line does."""
    serve = typer.main.get_command(app).commands["serve"]
    given = serve.make_context("serve", list(words)).params
    assert given["bundles"] and given["port"] == 8000
    return given


def test_the_image_has_a_user_a_check_and_a_command_that_exists():
    found = image()
    assert found[0] == ("FROM", "python:3.12-slim") and {name for name, _ in found} <= INSTRUCTIONS
    said = dict(found)  # the last of each
    assert said["USER"] == "10001"
    after = [name for name, _ in found][[name for name, _ in found].index("USER") :]
    assert "RUN" not in after and "COPY" not in after, "what the image holds belongs to root"
    kind, _, code = said["HEALTHCHECK"].partition(" CMD ")
    assert "--timeout=5s" in kind
    compile(json.loads(code)[2], "HEALTHCHECK", "exec")
    given = check_command(json.loads(said["ENTRYPOINT"])[2:] + json.loads(said["CMD"]))
    assert given["host"] == "0.0.0.0" and given["keys"], "others come in, so that keys are needed"
    copied = {name for kind, rest in found if kind == "COPY" for name in rest.split()[:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept and all((ROOT / name).exists() for name in copied)
    extras = next(re.search(r"\.\[(.*?)\]", rest)[1] for kind, rest in found if kind == "RUN" and ".[" in rest)
    assert set(extras.split(",")) <= set(re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text()))


def test_the_unit_starts_a_command_that_exists_with_few_rights():
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[:2] == ["/opt/beeline/venv/bin/beeline", "serve"]
    assert check_command(words[2:])["host"] == "127.0.0.1"
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "RestrictNamespaces"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert service["KillSignal"] == "SIGINT", "the end of the command that closes the service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    place = tmp_path / "beeline.service"
    place.write_text(UNIT.read_text().replace("/opt/beeline/venv/bin/beeline", shutil.which("true")))
    found = subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    rated = subprocess.run(["systemd-analyze", "security", "--offline=yes", place], capture_output=True, text=True)
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", rated.stdout)[1]) <= 2.0


@pytest.mark.slow
def test_the_image_builds():
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("there is no docker that runs")
    subprocess.run(["docker", "build", "-q", str(ROOT)], check=True, timeout=3600)
