"""A run's log, mirrored into other people's dashboards."""
