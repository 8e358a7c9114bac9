//! Certificates and keys behind data sources: reads them from mesh Secrets or inline text and takes PEM apart.
//! What it returns goes to the channel's material, or is a CA that may stand in a table.

use super::SecretMaterial;
use super::world::{MeshIndex, World};
use crate::resource::DataSource;
use base64::Engine as _;

/// The text of a data source.
pub(super) fn read(world: &World, mesh: &MeshIndex, source: &DataSource) -> Result<String, String> {
    match source {
        DataSource::Inline(text) | DataSource::InlineString(text) => Ok(text.clone()),
        DataSource::File(path) => world.settings.files.get(path).cloned().ok_or_else(|| {
            format!("file {path} wasn't read by the control plane: put it into a Secret of mesh {}", mesh.name)
        }),
        DataSource::Secret(name) => {
            let secret = mesh
                .secret(name)
                .ok_or_else(|| format!("there is no Secret {name} in mesh {}: apply it first", mesh.name))?;
            let compact: String = secret.data.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(compact)
                .map_err(|_| format!("the data of Secret {name} isn't base64"))?;
            String::from_utf8(bytes).map_err(|_| format!("Secret {name} isn't PEM text"))
        }
    }
}

/// Takes one PEM text with a key and certificates apart, the server's certificate first.
pub(super) fn key_pair(name: String, pem: &str) -> Result<SecretMaterial, String> {
    let mut out = SecretMaterial { name, ..SecretMaterial::default() };
    let mut label: Option<&str> = None;
    let mut block = String::new();
    for line in pem.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) {
            label = Some(name);
            block.clear();
        }
        let Some(inside) = label else { continue };
        block.push_str(line);
        block.push('\n');
        if !line.starts_with("-----END ") {
            continue;
        }
        label = None;
        match inside {
            "CERTIFICATE" => out.cert_pem.push_str(&block),
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" if out.key_pem.is_empty() => {
                out.key_pem.clone_from(&block)
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
                return Err("secret contains multiple private keys".into());
            }
            // openssl writes the curve of an EC key ahead of it.
            "EC PARAMETERS" => {}
            _ => return Err("unsupported PEM block".into()),
        }
    }
    if out.cert_pem.is_empty() {
        return Err("missing server certificate".into());
    }
    if out.key_pem.is_empty() {
        return Err("missing private key".into());
    }
    Ok(out)
}
