//! Compilation, asked as a table.
