//! A process of the hall: start-up, shutdown, tasks, health, listeners, telemetry.
