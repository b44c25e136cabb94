"""A strict interpreter of the Cloud Workflows syntax that gemtune uses.

Syntax: https://cloud.google.com/workflows/docs/reference/syntax. Anything else is an error at load time, with file and
line. There is no journal: the host runs an unfinished execution again from `main`.
"""

from gemtune.local_server.workflow_engine.errors import WorkflowError, WorkflowFailed, WorkflowSyntaxError
from gemtune.local_server.workflow_engine.http_calls import http_post
from gemtune.local_server.workflow_engine.interpreter import execute
from gemtune.local_server.workflow_engine.syntax import Workflow, load

__all__ = ["Workflow", "WorkflowError", "WorkflowFailed", "WorkflowSyntaxError", "execute", "http_post", "load"]
