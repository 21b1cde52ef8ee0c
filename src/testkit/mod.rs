//! An embedded broker, a simulated network and clock, a fault proxy.
