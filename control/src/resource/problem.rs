//! What is wrong with a user's text, said so that they can mend it: where, in which resource, which field, what, how.

use super::Place;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The resource isn't taken.
    Error,
    /// The resource is taken, read as the message says.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// 1-based; known for faults of the text only.
    pub column: Option<usize>,
    /// `Dataplane default/backend-1`, or as much of it as is known; empty if nothing is.
    pub resource: String,
    /// `networking.inbound[0].tags["version"]`; empty for the resource itself.
    pub field: String,
    pub message: String,
    pub severity: Severity,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.place.file, self.place.line)?;
        if let Some(column) = self.column {
            write!(f, "column {column}: ")?;
        }
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        for part in [&self.resource, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
