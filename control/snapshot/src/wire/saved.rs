//! Tables as a file holds them: the format of rows, the generation, and the tables, one after the other.

use super::FORMAT;
use crate::{Generation, Tables};
use serde::{Deserialize, de::DeserializeOwned};
use std::io;

/// Writes what [`load`] reads.
///
/// # Errors
/// Those of the writer.
pub fn save(generation: Generation, tables: &Tables, mut to: impl io::Write) -> io::Result<()> {
    rmp_serde::encode::write_named(&mut to, &FORMAT)
        .and_then(|()| rmp_serde::encode::write_named(&mut to, &generation))
        .and_then(|()| rmp_serde::encode::write_named(&mut to, tables))
        .map_err(io::Error::other)
}

/// # Errors
/// What is wrong with the bytes.
pub fn load(bytes: &[u8]) -> Result<(Generation, Tables), String> {
    // Releases before 2026-11-21 wrote JSON.
    if bytes.starts_with(b"{") {
        #[derive(Deserialize)]
        struct Saved {
            generation: Generation,
            tables: Tables,
        }
        let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        return Ok((saved.generation, saved.tables));
    }
    let mut rest = rmp_serde::Deserializer::from_read_ref(bytes);
    let format: u32 = read(&mut rest)?;
    if format != FORMAT {
        return Err(format!("its rows are in format {format}, this release reads {FORMAT}"));
    }
    Ok((read(&mut rest)?, read(&mut rest)?))
}

fn read<T: DeserializeOwned>(
    from: &mut rmp_serde::Deserializer<rmp_serde::decode::ReadRefReader<'_, [u8]>>,
) -> Result<T, String> {
    T::deserialize(from).map_err(|error| error.to_string())
}
