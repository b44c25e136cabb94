"""Services that a user names: their URLs and tokens, in a private file.

{"current": "work", "profiles": {"work": {"url": "https://…", "token_command": "gcloud auth print-identity-token"}}}
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gemtune.client.calls import Address
from gemtune.client.errors import BadUse

DEFAULT_PORT = 8080
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Permissions of other users.
OTHERS = 0o077
COMMAND_SECONDS = 60


class Profile(BaseModel):
    """A service. token_command: prints a token, where tokens last an hour."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = None
    token: str | None = None
    token_command: str | None = None

    def read_token(self) -> str | None:
        """Return the token, or what the command prints.

        Raises BadUse if the command fails or prints nothing.
        """
        if self.token is not None or self.token_command is None:
            return self.token
        try:
            ran = subprocess.run(
                shlex.split(self.token_command), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip()
            raise BadUse(f"the token_command of the profile failed: {reason[:500]}") from None
        token = ran.stdout.strip()
        if not token:
            raise BadUse(f"the token_command of the profile printed nothing: {self.token_command}")
        return token


class Profiles(BaseModel):
    """Content of the file. current: name of the profile in use."""

    model_config = ConfigDict(extra="forbid")

    current: str | None = None
    profiles: dict[str, Profile] = Field(default_factory=dict)


def file_path(environment: Mapping[str, str] | None = None) -> Path:
    """Return the path of the file."""
    env = os.environ if environment is None else environment
    if env.get("GEMTUNE_CONFIG"):
        return Path(env["GEMTUNE_CONFIG"]).expanduser()
    return Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gemtune" / "config.json"


def load(path: Path) -> Profiles:
    """Return the profiles of a file; none if there is no file.

    Raises BadUse if others may read or change it, and if it is not readable.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        return Profiles()
    if mode & OTHERS:
        raise BadUse(f"{path} has tokens, and other users may read or change it; run `chmod 600 {path}`")
    try:
        return Profiles.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # without values, which may be tokens
        where = ".".join(map(str, first["loc"]))
        raise BadUse(f"{path} cannot be read: {where}{': ' if where else ''}{first['msg']}") from None


def save(profiles: Profiles, path: Path) -> None:
    """Write the file, atomically, so that only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(profiles.model_dump(exclude_none=True), indent=1) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def find_address(
    url: str | None = None,
    token: str | None = None,
    profile: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Address:
    """Return the service to call, and the token for it.

    An argument counts before a variable, and a variable before the profile in use. The token of a profile is used with
    the URL of the same profile only; if that profile is an argument, its token counts before the variable's. Without
    anything it is the service of this machine.

    Raises BadUse.
    """
    env = os.environ if environment is None else environment
    if not url and not profile:
        url = env.get("GEMTUNE_URL") or None
    own_token = env.get("GEMTUNE_ID_TOKEN") or None
    if url:
        return Address(url_of(url), token or own_token)
    chosen = _chosen(profile or env.get("GEMTUNE_PROFILE") or None, file_path(env))
    if chosen is None or chosen.url is None:
        return Address(f"http://127.0.0.1:{env.get('PORT') or DEFAULT_PORT}", token or own_token)
    if not profile:
        token = token or own_token
    return Address(url_of(chosen.url), token or chosen.read_token() or own_token)


def _chosen(name: str | None, path: Path) -> Profile | None:
    """Return the profile of a name, or the current one."""
    profiles = load(path)
    if name is None:
        name = profiles.current
    if name is None:
        return None
    if name not in profiles.profiles:
        names = ", ".join(sorted(profiles.profiles)) or "none"
        raise BadUse(f"there is no profile {name!r} in {path}; there are: {names}")
    return profiles.profiles[name]


def url_of(text: str) -> str:
    """Return the URL of a service.

    Without a scheme, `http` of this machine is meant.

    Raises BadUse for another machine without a scheme, and for other schemes.
    """
    scheme, separator, _ = text.partition("://")
    if separator and scheme in ("http", "https"):
        return text.rstrip("/")
    if separator:
        raise BadUse(f"{text}: the URL of a service begins with http:// or https://")
    if text.partition(":")[0].partition("/")[0] in ("localhost", "127.0.0.1"):
        return f"http://{text}"
    raise BadUse(f"{text}: say https://{text}, or http:// for a service without TLS")
