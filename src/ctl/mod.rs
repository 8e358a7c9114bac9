//! kumactl's commands: each is a few REST calls and a rendering of the answers. Must not reach into a store.

mod apply;
mod client;
mod config;
mod control_planes;
mod files;
mod inspect;
mod names;
mod show;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod wait;

pub(crate) use apply::{apply, delete};
pub(crate) use control_planes::configure;
pub(crate) use files::{expand, pairs, read_files, read_text, render_all};
pub(crate) use inspect::inspect;
pub(crate) use show::get;
pub(crate) use tokens::generate;
pub(crate) use wait::wait;

use crate::failure::Failure;
use control::resource::registry::{KINDS, KindInfo, kind_by_name};
use std::fmt::Write as _;

/// What a command prints on stdout.
pub(crate) type Done = Result<String, Failure>;

fn known(kind: &str) -> Result<&'static KindInfo, Failure> {
    kind_by_name(kind).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|k| k.plural).collect();
        Failure::usage(format!("unknown kind {kind}; known are: {}", names.join(", ")))
    })
}

fn item_path(info: &KindInfo, mesh: &str, name: &str) -> String {
    format!("{}/{}", list_path(info, mesh), segment(name))
}

fn list_path(info: &KindInfo, mesh: &str) -> String {
    match info.is_mesh_scoped() {
        true => format!("/meshes/{}/{}", segment(mesh), info.path),
        false => format!("/{}", info.path),
    }
}

/// A name as one segment of a path or one value of a query, whatever was typed.
fn segment(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte.into()),
            b'.' if name != "." && name != ".." => out.push('.'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
