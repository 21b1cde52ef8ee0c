//! Record batches: building, reading, compressing. Public and usable alone.
