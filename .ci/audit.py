"""``python audit.py REQUIREMENTS``: ask whether anything that is pinned has known vulnerabilities.

Exit status 1 if something has, or if not everything could be looked up. 0 if nothing has. If nobody who
knows can be reached at all, it says so and the status is 0: a machine without that data must be able to
build. To tell "knows of none" from "knows nothing", each service is first asked about a release that is
known to be vulnerable.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SERVICES = ("pypi", "osv")

KNOWN_BAD = "requests==2.19.0"
"""It sent credentials along to other hosts: PYSEC-2018-28."""


def main() -> int:
    """Audit; return the exit status."""
    requirements = sys.argv[1]
    for service in SERVICES:
        if not knows_anything(service):
            print(f"audit: {service} has no data for us: it does not know that {KNOWN_BAD} is vulnerable")
            continue
        print(f"audit: {requirements}, by {service}", flush=True)
        # Strict: what cannot be looked up is a failure.
        return ask(service, "--strict", "--requirement", requirements).returncode
    print(f"audit: NOT DONE. No data of {' or '.join(SERVICES)} to be had here, so nobody was asked about")
    print(f"audit: {requirements}. Run it where there is a network.")
    return 0


def knows_anything(service: str) -> bool:
    """Whether ``service`` can be reached and has data, by what it says of `KNOWN_BAD`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "known-bad.txt"
        path.write_text(f"{KNOWN_BAD}\n")
        answer = ask(service, "--requirement", str(path), "--no-deps", "--format", "json", quiet=True)
    return answer.returncode == 1 and b"PYSEC-2018-28" in answer.stdout


def ask(service: str, *flags: str, quiet: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run pip-audit. It resolves nothing: what it is given is pinned."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", service, *flags]
    return subprocess.run(command, capture_output=quiet, check=False)


if __name__ == "__main__":
    sys.exit(main())
