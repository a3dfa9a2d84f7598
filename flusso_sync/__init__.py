"""flusso-sync keeps search documents in step with Postgres."""
