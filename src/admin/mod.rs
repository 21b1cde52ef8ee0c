//! Topics and cluster, as an administrator sees them.
