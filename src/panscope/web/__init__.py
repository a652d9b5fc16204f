"""The explorer: pages and a REST API over a run folder, in one process."""
