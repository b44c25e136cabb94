"""Command line: `python -m deploy images|plan|apply|destroy|output|smoke`."""

from __future__ import annotations

import argparse
import os
import sys

from deploy import known_errors, project, smoke
from deploy.deployment import Deployment
from deploy.tools import Failed, Refused


def main() -> int:
    """Run a command and return the exit code.

    0: done. 1: a tool or the service failed. 2: refused before anything was changed.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy")
    parser.add_argument("command", choices=["images", "plan", "apply", "destroy", "output", "smoke"])
    command = parser.parse_args().command
    try:
        if command == "smoke":
            return smoke.run(os.environ)
        deployment = Deployment.from_environment(os.environ)
        if command == "output":
            project.output(deployment, os.environ.get("NAME") or "api_url")
            return 0
        commands = {
            "images": project.build_images,
            "plan": project.plan,
            "apply": project.apply,
            "destroy": project.destroy,
        }
        commands[command](deployment)
    except Refused as refused:
        error = known_errors.explained(refused) if isinstance(refused, Failed) else refused
        print(f"make {'deploy' if command == 'apply' else command}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
