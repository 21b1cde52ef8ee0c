//! Names to addresses, addresses to connections.
