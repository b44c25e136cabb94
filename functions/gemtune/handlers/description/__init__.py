"""Description of an operation: its parameters, errors and OpenAPI document."""
