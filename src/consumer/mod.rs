//! What users read records with.
