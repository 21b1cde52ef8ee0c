//! Assembly: start, pin, connect rooms, shut down.
