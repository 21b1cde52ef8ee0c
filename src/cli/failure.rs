//! Why a command ended, and with which exit code.

use std::fmt;
use std::io;

/// A command's end that is not success.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1: it was tried and did not work.
    Failed(String),
    /// Exit code 2: the arguments or the configuration cannot be taken.
    Usage(String),
    /// Exit code 3: it worked, and a check did not hold.
    Check(String),
    /// Reading or writing standard streams failed.
    Io(io::Error),
}

impl Failure {
    /// The process' exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Io(_) => 1,
            Self::Usage(_) => 2,
            Self::Check(_) => 3,
        }
    }

    /// Whether the reader of our output went away, which is a normal end.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Wraps anything that has words.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Check(text) => f.write_str(text),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}
