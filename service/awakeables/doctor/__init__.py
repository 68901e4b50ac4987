"""Checks what a service depends on, even while it is down: settings, Kafka, store, disk, clock."""
