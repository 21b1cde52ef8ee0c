//! Kafka's messages: bytes to values and back. Public and usable alone.
