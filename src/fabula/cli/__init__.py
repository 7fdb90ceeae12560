"""The only place that parses, prints and exits."""
