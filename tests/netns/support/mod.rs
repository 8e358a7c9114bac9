//! What the tests here share: a mesh of processes, and traffic that checks its own bytes.

pub(crate) mod mesh;
pub(crate) mod traffic;
pub(crate) mod zones;
