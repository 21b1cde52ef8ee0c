//! What users send records with.
