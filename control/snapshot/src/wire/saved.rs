//! Tables as a file holds them: the format of rows, the generation, and all rows as the channel carries them.

use super::{FORMAT, Incoming, Part, Rows, parts};
use crate::{Generation, Tables};
use serde::{Deserialize, Serialize, Serializer};
use std::io;

/// Rows of one table. After the last of them stands one without a table.
#[derive(Serialize, Deserialize)]
struct Piece<'a> {
    table: &'a str,
    count: usize,
    #[serde(serialize_with = "bytes")]
    bodies: &'a [u8],
}

fn bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Writes what [`load`] reads.
///
/// # Errors
/// Those of the writer.
pub fn save(generation: Generation, tables: &Tables, mut to: impl io::Write) -> io::Result<()> {
    rmp_serde::encode::write_named(&mut to, &FORMAT)
        .and_then(|()| rmp_serde::encode::write_named(&mut to, &generation))
        .map_err(io::Error::other)?;
    let mut write = |piece: Piece<'_>| rmp_serde::encode::write_named(&mut to, &piece).map_err(io::Error::other);
    for Rows { table, count, bodies } in parts(None, tables).flat_map(|part| part.upserts) {
        write(Piece { table: &table, count, bodies: &bodies })?;
    }
    write(Piece { table: "", count: 0, bodies: &[] })
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
    let wrong = |error: rmp_serde::decode::Error| error.to_string();
    let format = u32::deserialize(&mut rest).map_err(wrong)?;
    let mut incoming = Incoming::new(format)?;
    let generation = Generation::deserialize(&mut rest).map_err(wrong)?;
    loop {
        let Piece { table, count, bodies } = Piece::deserialize(&mut rest).map_err(wrong)?;
        if table.is_empty() {
            break;
        }
        let rows = Rows { table: table.to_owned(), count, bodies: bodies.to_owned() };
        let part = Part { upserts: vec![rows], ..Part::default() };
        incoming.take(&part).map_err(|error| error.to_string())?;
    }
    let tables = incoming.apply(&Tables::default()).map_err(|error| error.to_string())?;
    Ok((generation, tables))
}
