"""Looks at what a service stands on, also while it is down: settings, Kafka, store, disk, clock."""
