//! Why a run ended, with the program's exit code: 1 failed, 2 wrong usage, 3 a check failed.

/// Why a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something could not be done.
    Failed(String),
    /// The command line asks for what there is not.
    Usage(String),
    /// Records were lost, added or changed.
    Check(String),
}

impl Fault {
    /// A failure of `what`, for `map_err`.
    pub fn failed<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{what}: {error}"))
    }

    /// In words.
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Check(text) => text,
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Check(_) => 3,
        }
    }
}
