//! Settings as data: every key declared once with unit, default, range and meaning.
