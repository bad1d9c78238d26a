"""What programs are told: every `--json` and every answer of the service in JSON. One form per thing; no I/O."""
